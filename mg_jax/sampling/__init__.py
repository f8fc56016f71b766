"""From a trained generator to clips."""
