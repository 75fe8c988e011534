"""Metrics: pure functions of predictions and truth that return an Estimate over independent units."""
