"""Files of an autoencoder and a text encoder so small that a test can train with them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core import config, weights
from mutoscope.encoders.words import Words, WordsConfig

AUTOENCODER = ToyConfig(latent_channels=4)
WORDS = WordsConfig(dim=12, depth=1, head_dim=12)


def write_models(at: Path, vocabulary: Sequence[str]) -> None:
    """Write both, with random weights, as autoencoder.safetensors and words.safetensors."""
    torch.manual_seed(0)
    state = ToyAutoencoder(AUTOENCODER).state_dict()
    weights.save(at / "autoencoder.safetensors", state, {"config": json.dumps(config.to_json(AUTOENCODER))})
    described = {"config": json.dumps(config.to_json(WORDS)), "vocabulary": json.dumps(vocabulary)}
    weights.save(at / "words.safetensors", Words(WORDS, vocabulary).state_dict(), described)
