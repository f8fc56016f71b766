"""What a user asks of trained models, from flags and files to files."""
