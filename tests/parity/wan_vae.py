"""Wan 2.1's autoencoder, on clips of any length."""

from typing import Any

import torch
from torch import Tensor

from mutoscope.autoencoders.wan import MEAN, STD, WanAutoencoder, WanConfig, keys
from mutoscope.core import weights
from tests.parity.runner import Case


def config_of(theirs: dict[str, Any], mean: Tensor, std: Tensor) -> WanConfig:
    """Translate the arguments of the published class and the statistics that it is called with."""
    assert not theirs.get("attn_scales"), "no released network attends anywhere but in the middle"
    assert theirs["z_dim"] == len(mean) == len(std)
    return WanConfig(
        dim=theirs["dim"],
        multipliers=tuple(theirs["dim_mult"]),
        depth=theirs["num_res_blocks"],
        is_temporal=tuple(theirs["temperal_downsample"]),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def run(case: Case) -> dict[str, Tensor]:
    channels = case.config["z_dim"]
    mean = case.io.get("in.latents_mean", torch.tensor(MEAN[:channels]))
    std = case.io.get("in.latents_std", torch.tensor(STD[:channels]))
    config = config_of(case.config, mean, std)
    autoencoder = WanAutoencoder(config).eval()
    tensors = weights.to_ours(case.weights, keys(config)["official"], source=str(case.folder))
    weights.load_into(autoencoder, tensors, source=str(case.folder))
    outputs = {}
    for name, value in case.io.items():
        if name.startswith("in.video_"):
            outputs[f"out.z_{name.removeprefix('in.video_')}"] = autoencoder.encode(value)
        if name.startswith("in.latent_"):
            clip = name.removeprefix("in.latent_")
            outputs[f"out.x_{clip}"] = autoencoder.pixels(value * std.view(-1, 1, 1, 1) + mean.view(-1, 1, 1, 1))
            outputs[f"out.x_{clip}_clamped"] = autoencoder.decode(value)
    return outputs


COMPONENTS = {("Wan2.1 (used by ContentV)", "vae"): run}
