"""Configs of the experiments; each stage derives from the previous one and states differences."""
