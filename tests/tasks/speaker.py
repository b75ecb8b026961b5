"""HunyuanVideo-Avatar so small that a test can sample with it: random weights, stand-ins for ears and readers."""

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mutoscope.autoencoders import hunyuan as autoencoders
from mutoscope.core.video import Audio
from mutoscope.encoders.audio import RATE, Ear
from mutoscope.encoders.base import TextTokens
from mutoscope.models.hunyuan_avatar import FAMILY, PRESETS, HunyuanAvatar
from mutoscope.pipeline import Size, System

CONFIG = replace(PRESETS["tiny"], audio_window=10, audio_layers=2, audio_dim=4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network() -> HunyuanAvatar:
    """A network with no weight at its initial value, so that nothing hides behind a zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = HunyuanAvatar(CONFIG)
    for index, parameter in enumerate(built.parameters()):
        parameter.data += draw(*parameter.shape, seed=index) * 0.3 / max(1, parameter.shape[-1]) ** 0.5
    return built.eval().requires_grad_(False)


def text_of(length: int, seed: int) -> TextTokens:
    mask = torch.ones(1, length, dtype=torch.bool)
    return TextTokens(draw(1, length, CONFIG.text_dim, seed=seed), mask, draw(1, CONFIG.pooled_dim, seed=seed + 1))


class Spectrum:
    """In the place of a feature extractor: the loudness of every hundredth of a second."""

    def __call__(self, samples: np.ndarray, sampling_rate: int, return_tensors: str) -> Any:
        assert sampling_rate == RATE
        padded = np.zeros(3000 * 160, np.float32)
        padded[: samples.size] = np.abs(samples)
        return type("Features", (), {"input_features": torch.from_numpy(padded.reshape(1, 1, 3000, 160).mean(3))})


class Hearing(nn.Module):
    """In the place of Whisper: rows of the loudness, in the width that the tiny network wants."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(CONFIG.audio_layers, 1, CONFIG.audio_dim), requires_grad=False)

    def forward(self, mel: Tensor, output_hidden_states: bool) -> Any:
        return type("Output", (), {"hidden_states": [mel.mT[:, ::2] * row for row in self.weight]})


class Seeing(nn.Module):
    """In the place of Llava: tokens drawn from the prompt and from the brightness of the picture."""

    def encode(self, texts: list[str], pictures: list[np.ndarray]) -> TextTokens:
        ((text,), (picture,)) = texts, pictures
        seed = sum(map(ord, text)) + int(picture.mean())
        return text_of(4 + len(text) % 3, seed)

    def null(self, count: int) -> TextTokens:
        return self.encode([""] * count, [np.zeros((1, 1, 3), np.uint8)] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        return []


def speaker() -> System:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = autoencoders.HunyuanAutoencoder(autoencoders.PRESETS["tiny"])
    autoencoder.eval().requires_grad_(False)
    size = Size(129, 704, 1216, Fraction(25))
    return System(FAMILY, network(), autoencoder, cast(Any, Seeing()), "hunyuan-avatar/tiny", size)


def voice(frames: float, rate: int = RATE) -> Audio:
    samples = np.sin(np.arange(round(frames * rate / 25)) / 7).astype(np.float32)[None]
    return Audio.from_array(samples, rate)


EAR = Ear(Hearing(), Spectrum())
