"""Measure what runs around the published video networks against diffusers, with the same weights: time and peak memory.

    python benchmarks/bench_video_models.py                                    # the published figures, some minutes
    python benchmarks/bench_video_models.py --only step --rounds 3
    python benchmarks/bench_video_models.py --only mp4 --mp4-divide 8 --mp4.side 64 --threads 1

    attention  HunyuanVideo's autoencoder, the attention in its middle: frame after frame, or a mask over all pairs
    step       one step of HunyuanVideo with 40 real tokens of text among 256: the real ones alone, or a mask
    rope       the rotation of HunyuanVideo's queries, of the published width
    mp4        from latents to a file: decoded and written group by group, or the whole clip in float32 first
    start      the command line and the imports of generation, or `from diffusers import HunyuanVideoPipeline`

Widths are the published ones over `divide`, the step has 2 double and 4 single blocks, weights are random, types
float32. Both sides run in turn in one process, and a ratio is the median over rounds, of the CPU time of the process
and of the time on the wall; it is theirs over ours. Peaks are those of processes of their own, above what the loaded
model takes; an encoder of video is in them where it runs in the same process, as ours does. Prints one JSON line for
each figure.

Stops if results differ: by more than 1e-5 of the largest value; for mp4, frames by more than one level of 256, because
diffusers rounds down. Those are of a small clip, which HunyuanVideo's default way decodes exactly too; a clip of more
than 16 frames it changes (see bench_vae.py). Files are compared in number and size of frames alone: codecs differ.
"""

import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench_vae
import contest
import numpy as np
import torch
import tyro
from torch import Tensor, nn

from mutoscope.autoencoders import hunyuan as hunyuan_vae
from mutoscope.core import weights
from mutoscope.core.video import Video
from mutoscope.encoders.base import TextTokens
from mutoscope.models import hunyuan
from mutoscope.nn.rope import axes_rope, falling_speeds, rotate_pairs
from mutoscope.placement.blocks import return_large_blocks

ALLOWED = 1e-5  # largest difference of results that are the same, relative to the largest value
LEVELS = 1  # the same, of frames of 256 levels
TEXT, REAL = 256, 40  # tokens of the prompt, and how many are not padding
DOUBLES, SINGLES = 2, 4  # blocks of the network, of 20 and 40
FPS = 24
Run = Callable[[], Any]
Line = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """The size of a clip.

    Args:
        frames: 4k + 1.
        side: of its frames, in pixels, a multiple of 16.
    """

    frames: int
    side: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Its latents along t, h and w."""
        return (self.frames - 1) // 4 + 1, self.side // 8, self.side // 8

    def __str__(self) -> str:
        return f"{self.frames}x{self.side}x{self.side}"


WARM = Clip(9, 64)  # the clip before the measured one, where peaks are measured; for mp4, its frames are compared


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        only: one contest, such as "step"; all if empty.
        rounds: of the median.
        threads: that torch may use.
        divide: the published widths by this, in attention and step.
        attention: clip of that contest; the default has 5184 latents.
        step: the same; the default has 2700 tokens.
        rope: the same, and as many.
        mp4: the same.
        mp4_divide: as `divide`. Of narrower or smaller ones torch runs diffusers' convolutions for a batch of one in a
            slow kernel, with a buffer of 27 times its input, which larger ones do not have.
    """

    only: str = ""
    rounds: int = 5
    threads: int = 2
    divide: int = 4
    attention: Clip = Clip(33, 192)
    step: Clip = Clip(9, 480)
    rope: Clip = Clip(9, 480)
    mp4: Clip = Clip(33, 128)
    mp4_divide: int = 2


def of_diffusers(name: str, module: str = "diffusers") -> Any:
    """Import what takes seconds, which processes that measure ours are spared."""
    return getattr(importlib.import_module(module), name)


def line_of(name: str, options: Options, **figures: Any) -> Line:
    peer = figures.pop("peer", None)
    peer = f"diffusers {version('diffusers')}" + (f", {peer}" if peer else "")
    facts = contest.facts(options.threads, options.rounds)
    return {"benchmark": "video_models", "contest": name, "peer": peer, **figures, **facts}


# ---- attention -------------------------------------------------------------------------------------------------------


def our_attention(options: Options) -> nn.Module:
    config = bench_vae.hunyuan_config(options.divide)
    torch.manual_seed(0)
    attention = hunyuan_vae.Attention(config.dims[-1], config.groups).requires_grad_(False)
    for part in (attention.q, attention.k):
        part.weight.data *= 8  # so that a token has its favourites, and a wrong mask is seen
    return attention


def their_attention(options: Options) -> nn.Module:
    """Return diffusers' middle without what is around its attention, with the weights of ours."""
    config = bench_vae.hunyuan_config(options.divide)
    dim, place = config.dims[-1], "diffusers.models.autoencoders.autoencoder_kl_hunyuan_video"
    middle = of_diffusers("HunyuanVideoMidBlock3D", place)(dim, resnet_groups=config.groups, attention_head_dim=dim)
    middle.resnets = nn.ModuleList([nn.Identity(), nn.Identity()])
    ours, theirs = "decoder.middle.attention.", "decoder.mid_block."
    keys = [key for key in hunyuan_vae.keys(config)["diffusers"] if key.ours.startswith(ours)]
    state = weights.to_theirs(our_attention(options).state_dict(prefix=ours), keys)
    middle.load_state_dict({name.removeprefix(theirs): tensor for name, tensor in state.items()})
    return middle.requires_grad_(False)


ATTENTIONS = {"ours": our_attention, "theirs": their_attention}


def activation(clip: Clip, options: Options) -> Tensor:
    dim = bench_vae.hunyuan_config(options.divide).dims[-1]
    return torch.randn(1, dim, *clip.grid, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def attention_peak_mb(side: str, options: Options) -> float:
    torch.set_num_threads(options.threads)
    module, x = ATTENTIONS[side](options), activation(options.attention, options)
    module(activation(WARM, options))
    return contest.peak_mb(partial(module, x))


def attention(options: Options) -> Iterator[Line]:
    x = activation(options.attention, options)
    sides: dict[str, Run] = {side: partial(build(options), x) for side, build in ATTENTIONS.items()}
    times, results = contest.in_turn(sides, options.rounds)
    found = contest.difference(results["ours"] - x, results["theirs"] - x)
    contest.refuse_unless_same("attention", found, ALLOWED)
    peaks = contest.in_own_processes(attention_peak_mb, [(side, options) for side in ATTENTIONS])
    yield line_of(
        "attention",
        options,
        clip=str(options.attention),
        latents=x[0, 0].numel(),
        dim=x.shape[1],
        **contest.with_peaks(contest.compared(times["ours"], times["theirs"]), *peaks),
        difference=contest.digits(found, 2),
    )


# ---- step ------------------------------------------------------------------------------------------------------------


def our_network(config: hunyuan.Config) -> hunyuan.Hunyuan:
    torch.manual_seed(0)
    network = hunyuan.Hunyuan(config).requires_grad_(False)
    for parameter in network.parameters():  # some are zero at first, and then the answer is as well
        parameter += torch.randn_like(parameter) * 0.5 / parameter.shape[-1] ** 0.5
    return network


def their_network(config: hunyuan.Config, network: hunyuan.Hunyuan) -> nn.Module:
    other = of_diffusers("HunyuanVideoTransformer3DModel")(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.depth,
        num_single_layers=config.single_depth,
        text_embed_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
    )
    other.load_state_dict(weights.to_theirs(network.state_dict(), hunyuan.keys(config)["diffusers"]))
    return other.eval().requires_grad_(False)


def step(options: Options) -> Iterator[Line]:
    whole = hunyuan.PRESETS["t2v"]
    config = hunyuan.Config(
        depth=DOUBLES,
        single_depth=SINGLES,
        dim=whole.dim // options.divide,
        num_heads=whole.num_heads // options.divide,
        text_dim=whole.text_dim // options.divide,
        pooled_dim=whole.pooled_dim // options.divide,
    )
    network = our_network(config)
    other = their_network(config, network)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.latent_channels, *options.step.grid, generator=generator)
    tokens = torch.randn(1, TEXT, config.text_dim, generator=generator)
    pooled = torch.randn(1, config.pooled_dim, generator=generator)
    mask, t = torch.arange(TEXT)[None] < REAL, torch.tensor([0.5])
    condition = hunyuan.condition(TextTokens(tokens, mask, pooled), [])  # once a clip, and not in every step
    sides: dict[str, Run] = {
        "ours": lambda: network(x, t, condition),
        "theirs": lambda: other(
            x, 1000 * t, tokens, mask.to(x.dtype), pooled, 1000 * condition.guidance, return_dict=False
        )[0],
    }
    times, results = contest.in_turn(sides, options.rounds)
    found = contest.difference(results["ours"], results["theirs"])
    contest.refuse_unless_same("step", found, ALLOWED)
    yield line_of(
        "step",
        options,
        clip=str(options.step),
        tokens=x[0, 0].numel() // 4,
        text_tokens=TEXT,
        real_text_tokens=REAL,
        dim=config.dim,
        blocks=[DOUBLES, SINGLES],
        **contest.compared(times["ours"], times["theirs"]),
        difference=contest.digits(found, 2),
    )


# ---- rope ------------------------------------------------------------------------------------------------------------


def rope(options: Options) -> Iterator[Line]:
    config = hunyuan.PRESETS["t2v"]
    t, h, w = options.rope.grid
    positions = [torch.arange(length, dtype=torch.float32) for length in (t, h // 2, w // 2)]
    ours = axes_rope(positions, [falling_speeds(channels, config.rope_theta) for channels in config.rope_dims])
    table = of_diffusers("HunyuanVideoRotaryPosEmbed", "diffusers.models.transformers.transformer_hunyuan_video")
    theirs = table(2, 1, list(config.rope_dims), config.rope_theta)(torch.empty(1, 1, t, h, w))
    apply = of_diffusers("apply_rotary_emb", "diffusers.models.embeddings")
    # Both networks have channels last in memory, then heads, then tokens; ours names the heads first.
    q = torch.randn(1, len(ours), config.num_heads, config.head_dim, generator=torch.Generator().manual_seed(1))
    sides: dict[str, Run] = {
        "ours": lambda: rotate_pairs(q.transpose(1, 2), ours),
        "theirs": lambda: apply(q, theirs, sequence_dim=1),
    }
    times, results = contest.in_turn(sides, options.rounds)
    found = contest.difference(results["ours"].transpose(1, 2), results["theirs"])
    contest.refuse_unless_same("rope", found, ALLOWED)
    yield line_of(
        "rope",
        options,
        clip=str(options.rope),
        tokens=len(ours),
        heads=config.num_heads,
        **contest.compared(times["ours"], times["theirs"]),
        difference=contest.digits(found, 2),
    )


# ---- mp4 -------------------------------------------------------------------------------------------------------------


def latents_of(clip: Clip) -> Tensor:
    return torch.randn(1, 16, *clip.grid, generator=torch.Generator().manual_seed(1))


def our_video(network: Any, clip: Clip) -> Video:
    """Return the video that is decoded as it is read, a group of frames at a time, as `mutoscope generate` does."""

    def frames() -> Iterator[np.ndarray]:
        for group in network.decode_stream(latents_of(clip)):
            yield from Video.from_tensor(group, FPS).frames()

    return Video.from_frames(frames, clip.side, clip.side, FPS, clip.frames)


def their_video(network: Any, mode: str, clip: Clip) -> np.ndarray:
    """Return the frames, T H W 3 in [0, 1], as diffusers' pipelines do."""
    config, latents = network.config, latents_of(clip)
    if "latents_mean" in config:
        mean, std = (torch.tensor(config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
        latents = latents * std + mean
    else:
        latents = latents / config.scaling_factor
    processor = of_diffusers("VideoProcessor", "diffusers.video_processor")(vae_scale_factor=8)
    video = bench_vae.their_way(network, "decode", mode, latents)
    return processor.postprocess_video(video)[0]


def their_writer() -> str:
    """Say what `export_to_video` writes with here."""
    utils: Any = importlib.import_module("diffusers.utils.import_utils")
    if utils.is_imageio_available():
        return f"written with imageio {version('imageio')}"
    if utils.is_opencv_available():
        import cv2

        return f"written with OpenCV {cv2.__version__} as MPEG-4 part 2, because imageio is not installed"
    return "postprocess_video alone, because neither imageio nor OpenCV is installed: not written"


def least_peak_mb(run: Run) -> float:
    """Return the lower peak of two runs: kernels for this size are made in the first, which is in its peak."""
    return min(contest.peak_mb(run) for _ in range(2))


@torch.no_grad()
def mp4_peak(family: str, side: str, path: Path, options: Options) -> tuple[float, np.ndarray]:
    """Make a file in this process; returns the peak in MB, and what the writer gets of a small clip, T H W 3 uint8."""
    torch.set_num_threads(options.threads)
    like = bench_vae.Options(divide=options.mp4_divide)
    if side == "ours":
        return_large_blocks()  # as `pipeline.System` does before it decodes for a published network
        network = bench_vae.ours(family, like)

        def make(clip: Clip) -> None:
            our_video(network, clip).save(path)

        make(WARM)
        return least_peak_mb(partial(make, options.mp4)), our_video(network, WARM).array()
    network, state = bench_vae.theirs(family, like), bench_vae.ours(family, like)
    bench_vae.fill(network, state, family)
    del state
    export, is_written = of_diffusers("export_to_video", "diffusers.utils"), "alone" not in their_writer()

    def make_theirs(clip: Clip) -> None:
        frames = their_video(network, side, clip)
        if is_written:
            export(frames, str(path), fps=FPS)

    make_theirs(WARM)
    peak = least_peak_mb(partial(make_theirs, options.mp4))
    return peak, (their_video(network, side, WARM) * 255).astype(np.uint8)


def mp4(options: Options) -> Iterator[Line]:
    for family, modes in {"hunyuan": ("whole", "default"), "wan": ("default",)}.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = {side: Path(folder) / f"{side}.mp4" for side in ("ours", *modes)}
            calls = [(family, side, path, options) for side, path in paths.items()]
            made = dict(zip(paths, contest.in_own_processes(mp4_peak, calls), strict=True))
            for path in filter(Path.exists, paths.values()):
                video = Video.open(path)
                found = Clip(video.num_frames or 0, video.height)
                if found != options.mp4:
                    raise SystemExit(f"mp4: {path.name} of {family} holds {found}, not {options.mp4}.")
        peak, frames = made["ours"]
        for mode in modes:
            their_peak, their_frames = made[mode]
            levels = np.abs(frames.astype(np.int16) - their_frames)
            if levels.max() > LEVELS:
                raise SystemExit(f"mp4: frames of {family} differ by {levels.max()} of 256 levels.")
            yield line_of(
                f"mp4 {family}",
                options,
                peer=f"{mode}, {their_writer()}",
                clip=str(options.mp4),
                widths_over=options.mp4_divide,
                **contest.with_peaks({}, peak, their_peak),
                largest_difference_levels=int(levels.max()),
            )


# ---- start -----------------------------------------------------------------------------------------------------------

PEER = "from diffusers import HunyuanVideoPipeline"
MACHINERY = (
    "from mutoscope.apps import jobs; from mutoscope.pipeline import Request; from mutoscope.models import hunyuan"
)
ENCODERS = "from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, LlamaModel"


def starts() -> Mapping[str, list[str]]:
    """Return the commands of ours: help, and the imports of generation without and with those of its text encoders."""
    command, python = str(Path(sys.executable).with_name("mutoscope")), [sys.executable, "-c"]
    return {
        "start help": [command, "--help"],
        "start generate help": [command, "generate", "--help"],
        "start generate": [*python, MACHINERY],
        "start generate with encoders": [*python, f"{MACHINERY}; {ENCODERS}"],
    }


def started(command: list[str]) -> contest.Seconds:
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return contest.Seconds(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def start(options: Options) -> Iterator[Line]:
    commands = {
        **starts(),
        "theirs": [sys.executable, "-c", PEER],
        "torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[contest.Seconds]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, command in commands.items():
            seconds = started(command)
            if number:  # the first finds files that are not in memory yet
                times[name].append(seconds)
    for name in starts():
        figures = contest.compared(times[name], times["theirs"])
        yield line_of(name, options, peer=PEER, **figures, torch_alone=contest.medians(times["torch"]))


CONTESTS: Mapping[str, Callable[[Options], Iterator[Line]]] = {
    "attention": attention,
    "step": step,
    "rope": rope,
    "mp4": mp4,
    "start": start,
}


@torch.no_grad()
def main(options: Options) -> None:
    if options.only not in ("", *CONTESTS):
        raise SystemExit(f"--only {options.only} was given. Use one of {', '.join(CONTESTS)}, or leave it out.")
    torch.set_num_threads(options.threads)
    for name, measure in CONTESTS.items():
        if options.only in ("", name):
            for line in measure(options):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
