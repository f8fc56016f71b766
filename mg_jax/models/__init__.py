"""Networks: the backbone and its conditioning, autoencoders, text encoders, named sizes."""
