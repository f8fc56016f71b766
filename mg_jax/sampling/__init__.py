"""From a trained generator to clips and sounds, and from a video to its latents."""
