"""Evaluation of trained models: the toy world by oracles, reconstructions, latents."""
