"""Models that paint instead of generating: the truth, or the truth spoiled in one known way."""

import hashlib
import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import torch

from mutoscope.autoencoders.base import LatentShape, Patch, Size
from mutoscope.core.video import Video
from mutoscope.diffusion.guidance import Guidance
from mutoscope.evaluate import world
from mutoscope.pipeline import Settings
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import COLOURS


class Same:
    """An autoencoder that changes nothing."""

    def encode(self, video):
        return video

    def decode(self, latents):
        return latents

    def decode_stream(self, latents):
        yield latents

    def latent_shape(self, num_frames, height, width, patch=Patch()):
        return LatentShape(3, num_frames, height, width)

    def latents_id(self) -> str:
        return "same"

    def nearest_size(self, num_frames, height, width, patch=Patch()):
        return Size(num_frames, height, width)


class Painter:
    """Draws the prompt's scene, changed before or spoiled after; switched off after `stops_after` clips."""

    def __init__(self, change=lambda scene: scene, spoil=lambda frames: frames, stops_after=math.inf):
        self.name, self.fingerprint, self.device = "painter", "f" * 64, torch.device("cpu")
        self.autoencoder = Same()
        self.change, self.spoil, self.stops_after = change, spoil, stops_after
        self.requests = []

    def settings(self, request):
        return Settings(16, 64, 64, Fraction(8), request.steps or 30, 1.0, "euler", Guidance(5.0), 5.0, None)

    def generate(self, requests):
        if len(self.requests) + len(requests) > self.stops_after:
            raise KeyboardInterrupt
        self.requests += requests
        clips = [self.spoil(render(self.change(scene_of(request)))) for request in requests]
        return [Video.from_array(clip, 8) for clip in clips]


def scene_of(request):
    return prompts_by_request()[request.prompt, request.seed].scene


@cache
def prompts_by_request():
    return {(prompt.text, seed_of(prompt, 0)): prompt for prompt in world.load()}


def seed_of(prompt, base):
    digest = hashlib.sha256(f"{base} {prompt.pair}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def recoloured(scene):
    """Give every thing the next colour."""
    following = {colour: COLOURS[(index + 3) % len(COLOURS)] for index, colour in enumerate(COLOURS)}
    things = tuple(replace(thing, colour=following[thing.colour]) for thing in scene.things)
    return replace(scene, things=things)


def halted(frames):
    """Stay at the first frame."""
    return np.repeat(frames[:1], len(frames), axis=0)


def leaping(frames):
    """Show something else from the second frame on."""
    return np.concatenate([frames[:1], frames[1:, ::-1, ::-1]])
