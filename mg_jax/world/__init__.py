"""The toy world: moving shapes with exact captions, and oracles that measure clips."""
