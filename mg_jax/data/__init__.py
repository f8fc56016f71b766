"""Clips, captions and cached latents as random-access sources, and the Grain pipeline over them."""
