"""Foundations every other package stands on: shapes, meshes, sharding, randomness, config."""
