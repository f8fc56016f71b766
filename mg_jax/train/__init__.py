"""Training: one step, one loop, one checkpoint layout for every stage."""
