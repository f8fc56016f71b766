"""User-facing tasks on trained models, from flags and files to files."""
