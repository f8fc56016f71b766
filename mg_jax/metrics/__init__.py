"""Metrics of clips, sounds and features; those over many samples are streaming accumulators."""
