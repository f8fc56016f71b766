"""Configs of the experiments; each stage derives from the one before and states the differences."""
