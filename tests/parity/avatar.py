"""HunyuanVideo-Avatar at work: what it hears, the plan of its steps and windows, and a whole walk."""

import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.diffusion.samplers import Step, euler
from mutoscope.diffusion.schedule import grid
from mutoscope.diffusion.windows import average
from mutoscope.encoders.audio import COLUMNS, Ear
from mutoscope.models import hunyuan
from mutoscope.models.hunyuan_avatar import VIDEO_FRAMES, AudioTokens, Condition, Config
from mutoscope.tasks.avatar import Walk, latent_frames, places, sounds, turns
from tests.parity.encoders import write
from tests.parity.hunyuan import condition_of
from tests.parity.hunyuan_avatar import build, config_of
from tests.parity.runner import Case

MOST_FRAMES = 400  # that the published code makes of a voice; it cuts what is longer


def audio(case: Case) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary) / "whisper", case.config["whisper"], "whisper", case.weights_of("wav2vec."))
        ear = Ear.load(folder)
    mel = case.input("mel")[None, :, :COLUMNS]
    found = {}
    for name, fps in (("25", Fraction(25)), ("12_5", Fraction(25, 2))):
        found[f"out.audio_{name}fps"] = ear(mel, min(case.config[f"num_frames_{name}"], MOST_FRAMES), fps)
    projection = case.config["audio_proj"]
    tokens = AudioTokens(
        Config(
            of_width(projection["output_dim"]),
            audio_window=projection["seq_len"],
            audio_layers=projection["blocks"],
            audio_dim=projection["channels"],
            audio_hidden=projection["intermediate_dim"],
            audio_tokens=projection["context_tokens"],
        )
    )
    theirs = case.weights_of("audio_proj.")
    ours = {"proj1": "project.0", "proj2": "project.2", "proj3": "project.4", "norm": "norm"}
    tokens.load_state_dict({f"{ours[a]}.{b}": theirs[f"{a}.{b}"] for a, b in (name.split(".") for name in theirs)})
    heard = found["out.audio_25fps"]
    missing = (1 - heard.shape[1]) % VIDEO_FRAMES  # our projection packs as well, which takes 4 k + 1 frames
    packed = tokens(F.pad(heard, (0, 0, 0, 0, 0, 0, 0, missing)))
    single = rearrange(packed, "B T (f m) D -> B (T f) m D", f=VIDEO_FRAMES)
    found["out.projected"] = single[:, VIDEO_FRAMES - 1 :][:, : heard.shape[1]]
    found["out.packing"] = pack(case.input("tag"))
    return found


def of_width(dim: int) -> hunyuan.Config:
    return hunyuan.Config(dim=dim, num_heads=1, rope_dims=(dim, 0, 0), embeds_guidance=False)


def pack(tag: Tensor) -> Tensor:
    """Send numbers of tokens, twice each so that the width is even, through our packing in place of tokens."""
    twice = torch.cat([tag, tag], dim=3)
    count, width = twice.shape[2:]
    tokens = AudioTokens(
        Config(of_width(width), audio_window=1, audio_layers=1, audio_dim=count * width, audio_tokens=count)
    )
    for name in ("project", "norm"):
        setattr(tokens, name, torch.nn.Identity())
    return tokens(rearrange(twice, "B F m D -> B F 1 1 (m D)"))[..., : tag.shape[3]].flatten(2)


def sampling_schedule(case: Case) -> dict[str, Tensor]:
    config = case.config
    steps, window, move = config["num_inference_steps"], config["frames_per_batch"], config["shift_offset"]
    plan = turns(steps, config["guidance_scale"], skips=True)
    found = {
        "out.is_cache": torch.tensor([int(not turn.is_whole) for turn in plan]),
        "out.face_factor": torch.tensor([turn.face for turn in plan]),
        "out.guidance": torch.tensor([turn.guidance for turn in plan]),
        "out.uncond_half_uses_negative_prompt": torch.tensor([int(turn.is_prompted) for turn in plan]),
        "out.timesteps": 1000 * grid(steps, config["shift"])[:-1],
    }
    for heard in case.input("audio_lengths").tolist():
        walked, kept = latent_frames(heard, window)
        frames = torch.stack([places(walked, step, window, move) for step in range(steps)])
        heards = torch.stack([torch.stack([sounds(row, walked) for row in rows]) for rows in frames])
        found[f"out.n{heard}_window_first_index"] = frames[:, :, 0]
        found[f"out.n{heard}_audio_first_index"] = heards[:, :, 0]
        found[f"out.n{heard}_windows_step0_1_4"] = frames[[0, 1, 4]]
        found[f"out.n{heard}_audio_step0_1_4"] = heards[[0, 1, 4]]
        found[f"out.n{heard}_latent_frames_total_and_output"] = torch.tensor([walked, kept])
    return found


def pipeline(case: Case) -> dict[str, Tensor]:
    published = case.config
    network = build(config_of(case), case.weights)
    heard, steps = case.input("audio_prompts"), published["num_inference_steps"]
    window = case.input("ref_latents").shape[2]
    walked, kept = latent_frames(heard.shape[1], window)
    whole = Condition(
        condition_of(case, ("prompt_embeds", "prompt_mask", "prompt_embeds_2")),
        case.input("ref_latents"),
        F.pad(heard, (0, 0, 0, 0, 0, 0, 0, VIDEO_FRAMES * walked - heard.shape[1])),
        case.input("face_masks"),
        case.input("motion_pose").float(),
        case.input("motion_exp").float(),
        case.input("fps").float(),
    )
    negative = condition_of(case, ("negative_prompt_embeds", "negative_prompt_mask", "negative_prompt_embeds_2"))
    times, plan = grid(steps, published["shift"]), turns(steps, published["guidance_scale"], skips=True)
    noise = case.input("latents")[:, :, :walked]
    calls = [turn for step, turn in enumerate(plan) for _ in places(walked, step, window)]
    found = {
        "out.guidance": torch.tensor([turn.guidance for turn in plan]),
        "out.is_cache_per_call": torch.tensor([int(not turn.is_whole) for turn in calls]),
        "mid.timesteps": 1000 * times[:-1],
        "mid.sigmas": times,
    }
    for name, is_rounded in (("fp32", False), ("bf16", True)):
        walk = Walk(network, whole, negative, times, plan)
        states = states_of(rounded(walk) if is_rounded else walk, noise, times)
        found[f"out.trajectory_{name}"] = torch.stack([states[step] for step in published["kept_steps"]])
        found[f"out.latents_{name}"] = states[-1][:, :, :kept]
    return found


def rounded(walk: Walk) -> Any:
    """Return the walk as released: where a window's step leads is rounded to bfloat16 before it is averaged."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        step = walk.step_at(float(t[0]))
        ahead = float(walk.times[step + 1]) - float(t[0])

        def answer(part: Tensor, frames: Tensor) -> Tensor:
            arrived = part + ahead * walk.answer(part, t, frames, step)
            return (arrived.bfloat16().to(part.dtype) - part) / ahead

        return average(answer, x, places(x.shape[2], step, walk.window))

    return field


def states_of(field: Any, noise: Tensor, times: Tensor) -> list[Tensor]:
    """Return the state after each step."""
    states: list[Tensor] = []

    def see(step: Step) -> None:
        states.append(step.x)

    last = euler(field, noise, times, see)
    return [*itertools.islice(states, 1, None), last]


COMPONENTS = {
    ("HunyuanVideo-Avatar", "audio"): audio,
    ("HunyuanVideo-Avatar", "sampling_schedule"): sampling_schedule,
    ("HunyuanVideo-Avatar", "pipeline"): pipeline,
}
