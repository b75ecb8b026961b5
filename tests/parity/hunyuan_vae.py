"""HunyuanVideo's autoencoder: exact, and in the published tiles."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder, HunyuanConfig, Tiling, keys
from mutoscope.core import weights
from tests.parity.runner import Case

NEVER = 10**9  # a size that no clip reaches


def config_of(theirs: dict[str, Any]) -> HunyuanConfig:
    """Translate the arguments of the published class."""
    return HunyuanConfig(
        latent_channels=theirs["latent_channels"],
        dims=tuple(theirs["block_out_channels"]),
        depth=theirs["layers_per_block"],
        groups=theirs["norm_num_groups"],
        time_factor=theirs.get("time_compression_ratio", 4),
        space_factor=theirs.get("spatial_compression_ratio", 8),
        has_attention=theirs.get("mid_block_add_attention", True),
        scale=theirs.get("scaling_factor", 0.476986),
    )


def tiling_of(case: Case) -> Tiling:
    """Return the tiles of a case: those that its call states, else those of the published class."""
    stated, config = case.call.get("tile_sizes", {}), case.config
    side, frames = config.get("sample_size", 256), config.get("sample_tsize", 64)
    shrink = 2 ** (len(config["block_out_channels"]) - 1)
    return Tiling(
        side=stated.get("tile_sample_min_size", side),
        latent_side=stated.get("tile_latent_min_size", side // shrink),
        frames=stated.get("tile_sample_min_tsize", frames),
        latent_frames=stated.get("tile_latent_min_tsize", frames // config.get("time_compression_ratio", 4)),
        overlap=stated.get("overlap_factor", 0.25),
    )


def autoencoder_of(case: Case, tiling: Tiling | None = None) -> HunyuanAutoencoder:
    config = config_of(case.config)
    autoencoder = HunyuanAutoencoder(config, tiling).eval()
    tensors = weights.to_ours(case.weights, keys(config)["official"], source=str(case.folder))
    weights.load_into(autoencoder, tensors, source=str(case.folder))
    return autoencoder


def run(case: Case) -> dict[str, Tensor]:
    exact, tiling = autoencoder_of(case), tiling_of(case)
    tiled = autoencoder_of(case, tiling)
    spatial = autoencoder_of(case, dataclasses.replace(tiling, frames=NEVER, latent_frames=NEVER))
    ways: dict[str, Callable[[], Tensor]] = {
        "out.moments": lambda: exact.moments(case.input("video")),
        "out.image_moments": lambda: exact.moments(case.input("image")),
        "out.decoded": lambda: exact.pixels(case.input("z")),
        "out.decoded_first_frame_only": lambda: exact.pixels(case.input("z")[:, :, :1]),
        "out.decoded_tiled": lambda: tiled.pixels(case.input("z_tiled")),
        "out.decoded_spatial_tiled_2latents": lambda: spatial.pixels(case.input("z_tiled")[:, :, :2]),
        "out.moments_tiled": lambda: tiled.moments(case.input("video_tiled")),
    }
    return {name: way() for name, way in ways.items() if name in case.io}


COMPONENTS = {("HunyuanVideo", "vae"): run}
