"""What is measured of trained models: the toy world by oracles, reconstructions, latents."""
