"""Plans, launches and records training runs."""
