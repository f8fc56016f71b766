"""Metrics of clips, sounds and features; those over many samples accumulate as they come."""
