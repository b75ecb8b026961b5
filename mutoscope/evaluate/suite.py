"""Run the suite `world` on a model: sample, judge, keep every finished clip, and sum up.

    prompts --System.generate--> clips --judge--> samples.jsonl --figures--> result.json, result.md
    true clips ---------------------------judge--> the oracle's own figures
    true clips --encode, decode-----------judge--> the best that this autoencoder allows

A line is appended to `samples.jsonl` as soon as a clip is judged, so a run that was stopped goes on where it was, and a
set can be added later. `run.json` says what the folder holds; a run with other weights or settings is refused. A clip's
noise follows from its prompt, so batch size, order and limit change nothing, and both languages see the same noise.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from rich.table import Table

from mutoscope.autoencoders.base import Autoencoder
from mutoscope.core.errors import MutoscopeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.video import Video
from mutoscope.evaluate import report, world
from mutoscope.evaluate.report import Result, Row, SetResult
from mutoscope.evaluate.statistics import psnr
from mutoscope.evaluate.world import MAIN, SETS, Prompt
from mutoscope.pipeline import Request, Settings
from mutoscope.worlds.language import FACETS
from mutoscope.worlds.render import render

OnProgress = Callable[[int, int], None]  # (clips judged, clips to judge)
RECORDED = ("model", "device")  # in run.json for the reader; a run may go on under another name or elsewhere


@runtime_checkable
class Model(Protocol):
    """What is measured: `pipeline.System`, or anything that generates like it."""

    name: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it was read from; empty if that was no file."""
        ...

    @property
    def autoencoder(self) -> Autoencoder:
        """What turns its latents into pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def settings(self, request: Request) -> Settings:
        """Fill in a request's defaults, or refuse it."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Video]:
        """Generate one video for each request."""
        ...


@dataclass(frozen=True)
class _Run:
    """One run of the suite: the model, how it is sampled, and the judged clips so far."""

    model: Model
    sampling: Request
    settings: Settings
    folder: Path
    key: str  # hash of all that the figures depend on
    rows: dict[tuple[str, str], Row]  # by (who made the clip, prompt)


def run_world(
    system: Model,
    out: Path,
    *,
    sets: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int = 16,
    sampling: Request | None = None,
    on_progress: OnProgress | None = None,
) -> Result:
    """Measure a model on the suite `world`, or go on with a measurement that was stopped.

    Args:
        system: the model.
        out: folder of the measurement: clips, `samples.jsonl`, `result.json` and `result.md`.
        sets: names of `world.SETS`; if there are none, `world.MAIN`.
        limit: only so many prompts of each set.
        batch_size: clips sampled at once, at least 1.
        sampling: whose size, steps, guidance, solver and seed are used; its prompt and pictures are not.
        on_progress: told after every batch how many clips are judged, and how many there are.

    Returns:
        The figures of all sets that the folder holds by now.

    Raises:
        RequestError: there is no such set, the model cannot do what a set needs, or the folder holds something else.
        MutoscopeError: the folder cannot be written.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size={batch_size} samples nothing. Give at least 1.")
    prompts = world.load(sets or MAIN, limit)
    sampling = sampling or Request("")
    settings = system.settings(replace(sampling, prompt=prompts[0].text, given={}))
    for name in {prompt.set: prompt for prompt in prompts}.values():
        system.settings(_request(name, sampling, settings))  # refuses now what it would refuse in an hour
    run = _open(system, sampling, settings, out)
    limits = _jump_limits(run) if any(prompt.set == "image" for prompt in prompts) else {}
    pairs = list({prompt.pair: prompt for prompt in reversed(prompts)}.values())[::-1]
    without_reference = [prompt for prompt in pairs if ("autoencoder", prompt.pair) not in run.rows]
    without_clip = [prompt for prompt in prompts if ("model", prompt.id) not in run.rows]
    total = len(pairs) + len(prompts)
    done = total - len(without_reference) - len(without_clip)
    for work, batches in (
        (_judge_references, _batches(without_reference, batch_size)),
        (_judge_clips, _batches(without_clip, batch_size)),
    ):
        for batch in batches:
            work(run, batch, limits)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, total)
    result = _summarise(run)
    report.save(result, out)
    return result


def compare(folders: Sequence[Path]) -> Table:
    """Lay finished runs side by side, on the prompts that all of them have, each against the first.

    Args:
        folders: of at least two runs over the same prompts and judge.

    Raises:
        RequestError: there are fewer than two, one is not finished, or they have nothing in common.
    """
    if len(folders) < 2:
        raise RequestError("One run cannot be compared. Give the folders of two or more.")
    results = [report.load(folder) for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        for name in ("prompts", "judge"):
            if result.run[name] != results[0].run[name]:
                raise RequestError(f"{folder} was measured by another version of the {name}. Measure it again.")
    rows = [_read_rows(folder, result.run["key"]) for folder, result in zip(folders, results, strict=True)]
    shared = [
        prompt for prompt in world.load() if all(("model", prompt.id) in by_id for by_id in rows)
    ]  # in the order of the file
    if not shared:
        raise RequestError("These runs have no prompt in common. Measure the same sets.")
    by_folder = {
        str(folder): {
            name: [by_id["model", prompt.id] for prompt in shared if prompt.set == name]
            for name in dict.fromkeys(prompt.set for prompt in shared)
        }
        for folder, by_id in zip(folders, rows, strict=True)
    }
    headlines = [(name, measure) for name in by_folder[str(folders[0])] for measure in SETS[name].headlines]
    return report.compare(by_folder, headlines)


# Clips


def _batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Cut into batches of one set each, since the clips of a batch share the frames that are given."""
    for name in dict.fromkeys(prompt.set for prompt in prompts):
        alike = [prompt for prompt in prompts if prompt.set == name]
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _truth(prompt: Prompt, settings: Settings) -> UInt8[np.ndarray, "T H W 3"]:
    return render(prompt.scene, settings.num_frames, settings.height, settings.width)


def _request(prompt: Prompt, sampling: Request, settings: Settings) -> Request:
    """Ask for a prompt's clip: its text, its given frames, and noise of its own."""
    indices = prompt.given(settings.num_frames)
    truth = _truth(prompt, settings) if indices else None
    digest = hashlib.sha256(f"{sampling.seed} {prompt.pair}".encode()).digest()
    return replace(
        sampling,
        prompt=prompt.text,
        given={} if truth is None else {index: truth[index] for index in indices},
        seed=int.from_bytes(digest[:4], "little"),
    )


def _judge_clips(run: _Run, prompts: Sequence[Prompt], limits: Mapping[str, float]) -> None:
    videos = run.model.generate([_request(prompt, run.sampling, run.settings) for prompt in prompts])
    for prompt, video in zip(prompts, videos, strict=True):
        frames = video.array()
        Video.from_array(frames, run.settings.fps).save(run.folder / "clips" / f"{prompt.id}.mp4")
        _keep(run, "model", prompt.id, world.judge(prompt, frames, _truth(prompt, run.settings), limits))


@torch.inference_mode()
def _judge_references(run: _Run, prompts: Sequence[Prompt], limits: Mapping[str, float]) -> None:
    """Judge the true clips, as they are and as the autoencoder gives them back."""
    truths = np.stack([_truth(prompt, run.settings) for prompt in prompts])
    pixels = rearrange(torch.from_numpy(truths).to(run.model.device), "b t h w c -> b c t h w").float() / 127.5 - 1
    decoded = run.model.autoencoder.decode(run.model.autoencoder.encode(pixels))
    for prompt, truth, clip in zip(prompts, truths, decoded, strict=True):
        _keep(run, "truth", prompt.pair, world.judge(prompt, truth, truth, limits))
        frames = Video.from_tensor(clip, run.settings.fps).array()
        judgement = world.judge(prompt, frames, truth, limits)
        judgement.values["psnr"] = min(psnr(frames, truth), world.SAME)
        _keep(run, "autoencoder", prompt.pair, judgement)


def _jump_limits(run: _Run) -> Mapping[str, float]:
    """Return the limits of this clip size, found once for each run."""
    row = run.rows.get(("limits", "jump"))
    if row is None:
        limits = world.jump_limits(run.settings.num_frames, run.settings.height, run.settings.width)
        row = _append(run, {"by": "limits", "id": "jump", "key": run.key, "right": {}, "values": limits})
    return row["values"]


# The folder


def _open(system: Model, sampling: Request, settings: Settings, out: Path) -> _Run:
    """Take up a run of the very same kind in this folder, or begin one in an empty folder."""
    plain = json.loads(json.dumps(asdict(settings), default=_spell))
    matters = {"suite": "world", "weights": system.fingerprint, "settings": plain, "seed": sampling.seed}
    matters |= world.fingerprints()
    key = hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:16]
    described = {"key": key, "model": system.name, "device": str(system.device), **matters}
    path = out / "run.json"
    try:
        (out / "clips").mkdir(parents=True, exist_ok=True)
        is_begun = path.exists()
        is_taken = any(file.name != "clips" for file in out.iterdir()) or any((out / "clips").iterdir())
    except OSError as error:
        raise MutoscopeError(f"{out} cannot be used as a folder: {error.strerror}. Name another.") from error
    if is_begun:
        _refuse_other(out, _read_json(path), described)
        if not system.fingerprint:
            raise RequestError(f"{out} holds a run, and these weights come from no file to know them by. Name another.")
    elif is_taken:
        raise RequestError(f"{out} is not empty and holds no measurement. Name another folder.")
    else:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return _Run(system, sampling, settings, out, key, _read_rows(out, key))


def _spell(value: object) -> str:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{value!r} has no place in run.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MutoscopeError(f"{path} cannot be read ({error}). Name another folder.") from error


def _refuse_other(out: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Name the first thing in which two runs differ."""
    for name in asked:
        if name in ("key", *RECORDED) or held.get(name) == asked[name]:
            continue
        had, wants = held.get(name), asked[name]
        if name == "settings" and isinstance(had, dict):
            name = next(setting for setting in wants if had.get(setting) != wants[setting])
            had, wants = had.get(name), wants[name]
        what = f"{name} {had}, not {wants}" if len(f"{had}{wants}") < 100 else f"other {name}"
        raise RequestError(f"{out} holds a measurement with {what}. Name another folder.")


def _read_rows(folder: Path, key: str) -> dict[tuple[str, str], Row]:
    """Read the judged clips; a last line that a kill cut short is removed."""
    path = folder / "samples.jsonl"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also cut at U+2028 inside a text
    if lines.pop():
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    try:
        rows = [json.loads(line) for line in lines]
        if any(row["key"] != key for row in rows):
            raise RequestError(f"{path} holds clips of other runs. Name another folder.")
        return {(row["by"], row["id"]): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise MutoscopeError(f"{path} is damaged ({error!r}). Name another folder.") from error


def _keep(run: _Run, by: str, name: str, judgement: world.Judgement) -> None:
    fields = asdict(judgement)
    _append(run, {"by": by, "id": name, "key": run.key, **fields})


def _append(run: _Run, row: Row) -> Row:
    """Write a line at once, so that a kill loses at most the clip in hand."""
    path = run.folder / "samples.jsonl"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    except OSError as error:
        raise MutoscopeError(f"cannot write {path}: {error.strerror}. Free some space and run again.") from error
    run.rows[row["by"], row["id"]] = row
    return row


# Figures


def _summarise(run: _Run) -> Result:
    """Sum up every set of which the folder holds clips."""
    every = world.load()
    by_set = {
        name: [prompt for prompt in every if prompt.set == name and ("model", prompt.id) in run.rows] for name in SETS
    }
    sets = {}
    for name, prompts in by_set.items():
        if prompts:
            clips = [run.rows["model", prompt.id] for prompt in prompts]
            sets[name] = SetResult(
                title=SETS[name].title,
                prompts=sum(prompt.set == name for prompt in every),
                model=report.figures(clips),
                autoencoder=report.figures([run.rows["autoencoder", prompt.pair] for prompt in prompts]),
                truth=report.figures([run.rows["truth", prompt.pair] for prompt in prompts]),
                groups=_groups(prompts, clips),
            )
    languages = {}
    for name in ("one", "two", "three"):
        chinese = {prompt.pair: run.rows["model", prompt.id] for prompt in by_set[f"{name}_zh"]}
        english = {prompt.id: run.rows["model", prompt.id] for prompt in by_set[name] if prompt.id in chinese}
        if english:
            languages[name] = report.difference([chinese[pair] for pair in english], list(english.values()), "all")
    return Result(_read_json(run.folder / "run.json"), sets, languages)


def _groups(prompts: Sequence[Prompt], clips: Sequence[Row]) -> dict[str, dict[str, report.Figure]]:
    """Return the share that is all right for each value of each attribute that the scene, or its one thing, has."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for prompt, clip in zip(prompts, clips, strict=True):
        scene = prompt.scene
        kinds = {"length": prompt.length, "background": scene.background, "tone": scene.tone, "camera": scene.camera}
        if prompt.depth == 1:
            thing = scene.things[0]
            kinds |= {name: getattr(thing, name) for name in FACETS if getattr(thing, name) is not None}
        for attribute, value in kinds.items():
            groups.setdefault(attribute, {}).setdefault(value, []).append(clip)
    return {
        attribute: {value: report.figures(rows)["all"] for value, rows in values.items()}
        for attribute, values in groups.items()
    }
