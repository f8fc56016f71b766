"""Metrics as streaming accumulators."""
