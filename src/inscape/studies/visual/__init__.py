"""Text to a picture-like latent and back, learned from text alone: phases P0 to P7."""
