"""A whole system so small that a test can sample with it: random weights, real code."""

from fractions import Fraction

import torch

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.encoders.words import Words, WordsConfig
from mutoscope.models.stiv import FAMILY
from mutoscope.pipeline import Size, System

VOCABULARY = ("a", "red", "blue", "circle", "square", "drifts", "left", "over", "grey", "floor")


def toy_system() -> System:
    """Return a system of STIV's `tiny` preset for clips of 4 frames of 32x32."""
    config = FAMILY.presets["tiny"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FAMILY.network(config)
        for parameter in network.parameters():  # layers that start at zero would hide every mistake behind them
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        autoencoder = ToyAutoencoder(ToyConfig(config.latent_channels, dims=(8, 8), decoder_depths=(1, 1)))
        encoder = Words(WordsConfig(dim=config.text_dim, depth=1, head_dim=4), VOCABULARY)
    for module in (network, autoencoder, encoder):
        module.eval().requires_grad_(False)
    return System(FAMILY, network, autoencoder, encoder, "stiv/tiny", Size(4, 32, 32, Fraction(8)))
