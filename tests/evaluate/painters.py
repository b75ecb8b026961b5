"""Models that paint instead of generating: the truth, or the truth spoiled in one known way."""

import hashlib
from fractions import Fraction

import numpy as np
import torch

from mutoscope.core.video import Video
from mutoscope.diffusion.guidance import Guidance
from mutoscope.evaluate import world
from mutoscope.pipeline import Settings
from mutoscope.worlds.render import render


class Same:
    """An autoencoder that loses nothing."""

    def encode(self, video):
        return video

    def decode(self, latents):
        return latents


class Painter:
    """Draws the scene of the prompt, then spoils it; after `stops_after` clips it is switched off."""

    def __init__(self, spoil=lambda frames: frames, stops_after=None):
        self.name, self.fingerprint, self.device = "painter", "f" * 64, torch.device("cpu")
        self.autoencoder = Same()
        self.spoil, self.stops_after = spoil, stops_after
        self.requests = []

    def settings(self, request):
        return Settings(16, 64, 64, Fraction(8), request.steps or 30, 1.0, "euler", Guidance(5.0))

    def generate(self, requests):
        if self.stops_after is not None and len(self.requests) + len(requests) > self.stops_after:
            raise KeyboardInterrupt
        self.requests += requests
        return [Video.from_array(self.spoil(self._truth(request)), 8) for request in requests]

    def _truth(self, request):
        by_seed = {seed_of(prompt, 0): prompt for prompt in world.load() if prompt.text == request.prompt}
        return render(by_seed[request.seed].scene)


def seed_of(prompt, base):
    digest = hashlib.sha256(f"{base} {prompt.pair}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def recoloured(frames):
    """Turn every colour into another by passing the channels on; greys stay what they are."""
    vivid = frames.max(axis=-1, keepdims=True) - frames.min(axis=-1, keepdims=True) > 58
    return np.where(vivid, frames[..., [1, 2, 0]], frames)


def halted(frames):
    """Stay at the first frame."""
    return np.repeat(frames[:1], len(frames), axis=0)


def leaping(frames):
    """Show something else from the second frame on."""
    return np.concatenate([frames[:1], frames[1:, ::-1, ::-1]])
