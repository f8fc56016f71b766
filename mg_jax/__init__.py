"""mg_jax: an open Movie Gen in JAX and Flax."""

__version__ = "0.1.0"
