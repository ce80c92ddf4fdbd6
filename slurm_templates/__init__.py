"""Job script templates and cluster profiles (data only)."""
