"""Linen blocks the models are made of; parameters are float32 and carry logical axis names."""
