"""Pixels to latents and back: one self-contained file for each autoencoder, all with the interface of ``base``."""
