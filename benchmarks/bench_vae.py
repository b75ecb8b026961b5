"""Measure the autoencoders of HunyuanVideo and Wan against diffusers': time and peak memory, with the same weights.

    python benchmarks/bench_vae.py                                       # the published figures, some minutes
    python benchmarks/bench_vae.py --only "hunyuan decode" --rounds 3
    python benchmarks/bench_vae.py --divide 2 --side 192                 # wider networks on larger frames

Widths are the published ones over `divide`, weights are random, types float32. Both sides run in turn in one process,
and the ratio is the median over rounds, of the CPU time of the process and of the time on the wall. Peaks are those of
processes of their own, above what the loaded model takes. Prints one JSON line for each contest. Stops if what comes
out differs by more than 1e-4 of the largest value, except where diffusers works in tiles, which changes the result:
there, the difference is a figure of its own, and whether ours is exact was seen on the line without tiles.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import contest
import torch
import tyro
from torch import Tensor

from mutoscope.autoencoders import hunyuan, wan
from mutoscope.core import weights

ALLOWED = 1e-4  # largest difference of results that are the same, relative to the largest value
WARM = 2  # latents along each axis of the clip before the measured one
TILES = {"min_height": 96, "min_width": 96, "stride_height": 72, "stride_width": 72}  # pixels; diffusers has 256, 192
Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        only: one contest, such as "wan encode"; all if empty.
        frames: of the clip, 4k + 1.
        side: of its frames, in pixels, a multiple of 8.
        rounds: of the median.
        threads: that torch may use.
        divide: the published widths by this.
    """

    only: str = ""
    frames: int = 17
    side: int = 128
    rounds: int = 5
    threads: int = 2
    divide: int = 4


def hunyuan_config(divide: int) -> hunyuan.HunyuanConfig:
    return hunyuan.HunyuanConfig(dims=tuple(dim // divide for dim in (128, 256, 512, 512)), groups=32 // divide)


def ours(family: str, options: Options) -> Any:
    torch.manual_seed(0)
    if family == "hunyuan":
        network = hunyuan.HunyuanAutoencoder(hunyuan_config(options.divide))
    else:
        network = wan.WanAutoencoder(wan.WanConfig(dim=96 // options.divide))
    return network.eval().requires_grad_(False)


def theirs(family: str, options: Options) -> Any:
    diffusers: Any = importlib.import_module("diffusers")  # takes seconds, which processes that measure ours are spared
    if family == "hunyuan":
        config = hunyuan_config(options.divide)
        network = diffusers.AutoencoderKLHunyuanVideo(block_out_channels=config.dims, norm_num_groups=config.groups)
    else:
        network = diffusers.AutoencoderKLWan(base_dim=96 // options.divide)
    return network.eval().requires_grad_(False)


def fill(other: Any, network: Any, family: str) -> None:
    """Give diffusers' autoencoder the weights of ours."""
    module = hunyuan if family == "hunyuan" else wan
    other.load_state_dict(weights.to_theirs(network.state_dict(), module.keys(network.config)["diffusers"]))


def our_way(network: Any, what: str) -> Way:
    return network.pixels if what == "decode" else network.moments


def our_streamed_way(network: Any, latents: Tensor) -> Tensor:
    for frames in network.decode_stream(latents):
        last = frames
    return last


def their_way(network: Any, what: str, mode: str, x: Tensor) -> Tensor:
    """Run diffusers' autoencoder: "whole", in its "default" groups of frames, or "tiled" in space as well."""
    if isinstance(getattr(network, "use_framewise_decoding", None), bool):
        network.use_framewise_decoding = network.use_framewise_encoding = mode != "whole"
        if mode == "tiled":  # in tiles small enough for there to be some
            sides = {f"tile_sample_{name}": size for name, size in TILES.items()}
            network.enable_tiling(**sides)
        else:
            network.disable_tiling()
    return network.decode(x).sample if what == "decode" else network.encode(x).latent_dist.parameters


def contests() -> Mapping[str, tuple[str, ...]]:
    """Return what is measured, and in which modes diffusers is."""
    return {
        "hunyuan decode": ("whole", "default", "tiled"),
        "hunyuan encode": ("whole", "default", "tiled"),
        "wan decode": ("default",),
        "wan encode": ("default",),
    }


def sample(what: str, options: Options) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if what == "decode":
        side = options.side // 8
        return torch.randn(1, 16, (options.frames - 1) // 4 + 1, side, side, generator=generator)
    return torch.rand(1, 3, options.frames, options.side, options.side, generator=generator) * 2 - 1


@torch.no_grad()
def peak_mb(name: str, mode: str, options: Options) -> float:
    """Run one side once in this process; returns its peak above the memory in use before."""
    torch.set_num_threads(options.threads)
    family, what = name.split()
    x = sample(what, options)
    if mode in ("ours", "streamed"):
        network = ours(family, options)
        way: Way = our_way(network, what) if mode == "ours" else partial(our_streamed_way, network)
    else:
        way = partial(their_way, theirs(family, options), what, mode)
    step = (1, 1) if what == "decode" else (4, 8)
    way(x[:, :, : 1 + (WARM - 1) * step[0], : WARM * step[1], : WARM * step[1]])  # kernels are made on first use
    return contest.peak_mb(partial(way, x))


@torch.no_grad()
def measure(name: str, modes: tuple[str, ...], options: Options) -> list[dict[str, Any]]:
    """Run one contest; returns a line for each mode of diffusers."""
    family, what = name.split()
    x, network, other = sample(what, options), ours(family, options), theirs(family, options)
    fill(other, network, family)
    ways: dict[str, Way] = {"ours": our_way(network, what)}
    ways |= {mode: partial(their_way, other, what, mode) for mode in modes}
    times, results = contest.in_turn({side: partial(way, x) for side, way in ways.items()}, options.rounds)
    is_clipped = family == "wan" and what == "decode"
    mine = results["ours"].clamp(-1, 1) if is_clipped else results["ours"]
    sides = [*ways, *(["streamed"] if what == "decode" else [])]
    measured = contest.in_own_processes(peak_mb, [(name, side, options) for side in sides])
    peaks = dict(zip(sides, measured, strict=True))
    lines = []
    for mode in modes:
        difference = contest.difference(mine, results[mode])
        if family == "wan" or mode == "whole":
            contest.refuse_unless_same(name, difference, ALLOWED)
        compared = contest.compared(times["ours"], times[mode])
        lines.append(
            {
                "benchmark": "vae",
                "contest": name,
                "peer": f"diffusers {version('diffusers')}, {mode}",
                "clip": f"{options.frames}x{options.side}x{options.side}",
                "widths_over": options.divide,
                **contest.with_peaks(compared, peaks["ours"], peaks[mode]),
                "difference": contest.digits(difference, 2),
                **contest.facts(options.threads, options.rounds),
            }
        )
        if "streamed" in peaks:
            lines[-1]["ours"]["streamed_peak_mb"] = contest.digits(peaks["streamed"], 3)
    return lines


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    for name, modes in contests().items():
        if options.only in ("", name):
            for line in measure(name, modes, options):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
