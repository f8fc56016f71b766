"""Linen blocks of the models; parameters are float32 and carry logical axis names."""
