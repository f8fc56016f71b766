"""Networks: the backbone and its conditioning, autoencoders, encoders of text and images, sizes."""
