"""Ahead-of-time compilation for pods: memory, communication, bounds on time, and their page."""
