"""Turns records of finished runs into numbers, plots and reports."""
