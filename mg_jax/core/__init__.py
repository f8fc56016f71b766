"""Foundations of every other package: shapes, meshes, sharding, randomness, config."""
