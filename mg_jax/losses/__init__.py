"""Loss functions: pure, on arrays."""
