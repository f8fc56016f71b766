"""Ahead-of-time compilation for pods: memory, communication, time bounds, and the page of plans."""
