"""Training on a curated set whose clips have many sizes: what is drawn, what is refused, and how it goes on."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core import config, weights
from mutoscope.core.errors import MutoscopeError, RecipeError
from mutoscope.core.video import Video
from mutoscope.data import tars
from mutoscope.data.batches import BatchSettings
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.shards import Shards
from mutoscope.data.tars import Sample, Tars, Writer
from mutoscope.loading import load
from mutoscope.models.family import Facts
from mutoscope.pipeline import Request
from mutoscope.train import loop, precompute
from mutoscope.train.diffusion import CuratedClips, DiffusionObjective, GivenMix, Latents, ManySizes
from mutoscope.train.precompute import DatasetClips, Precompute
from mutoscope.train.recipe import Phase, Recipe
from tests.train.small import write_models

SIZES = [(4, 32, 48), (4, 48, 32), (6, 32, 48), (4, 48, 32), (9, 32, 48), (4, 32, 48), (1, 32, 48), (1, 48, 32)]
BATCHES = BatchSettings(tokens=48, bases=(40,), lengths=(1, 4), fps=8, step_px=16, ranks=2)


def write(at: Path, sizes: list[tuple[int, int, int]], text: str = "a red circle", weight: float = 1.0) -> Path:
    """Write clips of these frames (8 a second), heights and widths, each of a brightness of its own."""
    writer = Writer(at / "shards" / tars.shard_name(0), 0)
    for number, (num_frames, height, width) in enumerate(sizes):
        suffix = ".png" if num_frames == 1 else ".mp4"
        frames = np.full((num_frames, height, width, 3), 30 * number, np.uint8)
        Video.from_array(frames, 8).save(at / f"clip{suffix}")
        clip = Clip(f"c{number}", "test", num_frames, height, width, "8", captions=(Caption(text),))
        clip = replace(clip, source_height=2 * height, source_width=2 * width)
        writer.add(Sample(clip, suffix, (at / f"clip{suffix}").read_bytes(), {"scores": {"weight": weight}}))
    writer.close()
    tars.write_index(at / "shards", writer.rows)
    return at


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a small autoencoder, a small encoder, and a set of videos and pictures of two shapes."""
    at = tmp_path_factory.mktemp("sizes")
    write_models(at, ["a", "red", "circle"])
    return write(at, SIZES)


def objective(at: Path, batches: BatchSettings = BATCHES, **changes: object) -> DiffusionObjective:
    usual = DiffusionObjective(
        data=CuratedClips(str(at), batches),
        autoencoder=str(at / "autoencoder.safetensors"),
        encoder=str(at / "words.safetensors"),
        model="stiv/tiny",
        overrides=("patch_size=[1,2,2]",),
        given=GivenMix(none=0.5, first=0.5),
        prompts=("a red circle",),
    )
    return replace(usual, **changes)  # pyright: ignore[reportArgumentType]


def built(at: Path, batches: BatchSettings = BATCHES, **changes: object) -> ManySizes:
    made = objective(at, batches, **changes).build(seed=5)
    assert isinstance(made, ManySizes)
    torch.manual_seed(1)
    for parameter in made.module.parameters():  # away from the initial zeros, which hide errors
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def recipe(at: Path, steps: int = 4, **changes: object) -> Recipe:
    usual = Phase(
        "clips", objective(at), steps=steps, lr=5e-3, warmup_steps=2, ema_decay=0.8, save_every=1, log_every=2
    )
    return Recipe("sizes", (replace(usual, **changes),), seed=7)  # pyright: ignore[reportArgumentType]


def log_of(out: Path) -> list[dict]:
    """Return the log without what depends on the clock."""
    read = [json.loads(line) for line in (out / "clips" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in read]


def test_a_batch_is_of_one_size_and_the_network_is_told_it(folder: Path) -> None:
    made = built(folder, given=GivenMix(none=0, first=1), mask_ratio=0.5)
    shapes = set()
    for step in range(1, 9):
        shape, picks = made.batches.picks(step)
        parts = made.sample_ids(5, step, None, 1)
        assert list(chain.from_iterable(parts)) == list(range(len(picks))) and len(parts) == BATCHES.ranks
        for places in parts:
            batch = made.batch(places, step)
            assert batch.clips.shape == (len(places), *shape, 3) and batch.clips.dtype == torch.uint8
            assert batch.facts == tuple(Facts(2 * shape.height, 2 * shape.width, shape.num_frames) for _ in places)
            assert batch.noise.shape[1:] == (4, shape.num_frames, shape.height // 8, shape.width // 8)
            assert batch.given.sum().item() == (len(places) if shape.num_frames > 1 else 0), "never all of a picture"
            assert batch.keep is not None and batch.keep.shape == (len(places), 3)
            losses, _ = made.loss(made.module, batch)
            assert losses.shape == (len(places),) and bool(losses.isfinite().all())
        shapes.add(shape)
    assert shapes == {(1, 32, 48), (1, 48, 32), (4, 32, 48), (4, 48, 32)}


def test_a_batch_of_one_size_is_what_stored_latents_make_of_the_same_clips(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, [(4, 32, 48)] * 5)
    stored = Precompute(
        "latents",
        DatasetClips(str(tmp_path), num_frames=4, height=32, width=48, fps=8),
        str(folder / "autoencoder.safetensors"),
        str(tmp_path / "latents"),
        dtype="fp32",
    )
    precompute.encode(stored)
    many = built(folder, replace(BATCHES, ranks=1), data=CuratedClips(str(tmp_path), replace(BATCHES, ranks=1)))
    one = objective(folder, data=(Latents(str(tmp_path / "latents")),)).build(seed=5)
    for step in (1, 2, 3):
        _, picks = many.batches.picks(step)
        batch = many.batch([pick.place for pick in picks], step)
        same = one.batch([pick.index for pick in picks], step)
        assert batch.facts == same.facts
        same = replace(same, noise=batch.noise, t=batch.t, given=batch.given, texts=batch.texts)
        losses, expected = many.loss(many.module, batch)[0], one.loss(many.module, same)[0]
        torch.testing.assert_close(losses, expected)
    assert len(Shards(tmp_path / "latents")) == 5


def test_ranks_have_parts_of_a_step_whose_gradients_add_up_to_that_of_one(folder: Path) -> None:
    made = built(folder)

    def gradient(step: int, parts: list[list[int]], samples: int) -> list[torch.Tensor]:
        made.module.zero_grad()
        for places in parts:
            (made.loss(made.module, made.batch(places, step))[0].sum() / samples).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.module.parameters()]

    for step in (1, 2, 3):
        parts = made.sample_ids(5, step, None, 1)
        samples = sum(map(len, parts))
        ranks = [
            [[pick.place for pick in picks] for picks in made.batches.micro_batches(step, rank, 2)[1]]
            for rank in range(2)
        ]
        assert ranks[0] + ranks[1] == parts and not set(ranks[0][0]) & set(ranks[1][0])
        one = gradient(step, parts, samples)
        shares = [gradient(step, few, samples) for few in ranks]
        for whole, first, second in zip(one, *shares, strict=True):
            assert torch.equal(whole, first + second)
        together = made.batch(list(chain.from_iterable(parts)), step)
        torch.testing.assert_close(
            made.loss(made.module, together)[0],
            torch.cat([made.loss(made.module, made.batch(few, step))[0] for few in parts]),
        )


def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    def stop_at(wanted: int):
        def ask(phase: str, step: int, metrics: object) -> None:
            if step == wanted:
                raise ZeroDivisionError

        return ask

    whole = loop.run(recipe(folder), tmp_path / "whole")
    for stop in (1, 3):
        with pytest.raises(ZeroDivisionError):
            loop.run(recipe(folder), tmp_path / f"{stop}", on_step=stop_at(stop))
        again = loop.run(recipe(folder), tmp_path / f"{stop}")
        assert log_of(tmp_path / f"{stop}") == log_of(tmp_path / "whole")
        (a, _), (b, _) = weights.read(whole), weights.read(again)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_clips_of_many_sizes_and_the_model_makes_the_size_seen_most(
    folder: Path, tmp_path: Path
) -> None:
    path = loop.run(recipe(folder, steps=30, lr=1e-2, log_every=10, save_every=30, sample_every=30), tmp_path)
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]
    model = load(str(path), "cpu")
    assert (model.size.num_frames, model.size.height, model.size.width, model.size.fps) == (4, 32, 48, 8)
    (video,) = model.generate([Request("a red circle", steps=2)])
    assert video.array().shape == (4, 32, 48, 3)


@pytest.mark.parametrize(
    ("settings", "changes", "error"),
    [
        ({}, {"overrides": ("patch_size=[2,2,2]",)}, r"Clips of 1 x .* num_frames=2 .*Change lengths or step_px"),
        ({"step_px": 8}, {}, r"cannot be trained on: .*multiples of 16"),
        ({"tokens": 15}, {}, "less than one clip of 4 frames: the smallest has 16"),
        ({"lengths": (20,), "tokens": 1000}, {}, "No clip of .* has a bucket: 8 too short"),
        ({}, {"given": GivenMix(none=0, first_four=1)}, "need clips of 5 frames, these have 4"),
        ({"lengths": (1,)}, {}, "need clips of 2 frames, these have 1"),
        ({}, {"overrides": ("patch_size=[1,2,2]", "latent_channels=8")}, "has 4"),
        ({}, {"window": 2}, "window=2 is for latents"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_a_clip_is_read(
    folder: Path, settings: dict, changes: dict, error: str
) -> None:
    with pytest.raises(MutoscopeError, match=error):
        objective(folder, replace(BATCHES, **settings), **changes).build(seed=0)


def test_clips_without_captions_are_refused_unless_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, SIZES, text=" ")
    data = CuratedClips(str(tmp_path), BATCHES)
    with pytest.raises(RecipeError, match=r"8 of 8 clips .* c6 among them.*uncaptioned=True"):
        objective(folder, data=data).build(seed=0)
    objective(folder, data=replace(data, uncaptioned=True)).build(seed=0)
    assert "8 of 8" in capsys.readouterr().err
    objective(folder, data=data, text_dropout=1.0).build(seed=0)


def test_a_run_does_not_go_on_with_a_set_that_was_curated_anew(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, SIZES)
    data = CuratedClips(str(tmp_path), BATCHES)
    loop.run(recipe(folder, steps=2, objective=objective(folder, data=data)), tmp_path / "run")
    rows = Tars(tmp_path).rows
    tars.write_index(tmp_path / "shards", [replace(rows[0], weight=2.0), *rows[1:]])
    with pytest.raises(RecipeError, match="curated anew"):
        loop.run(recipe(folder, steps=4, objective=objective(folder, data=data)), tmp_path / "run")


def test_batches_are_made_by_tokens_and_no_batch_size_is_taken(folder: Path) -> None:
    made = recipe(folder)
    assert config.from_json(Recipe, config.to_json(made)) == made
    for changes in ({"batch_size": 4}, {"micro_batches": 2}):
        with pytest.raises(RecipeError, match="in batches by tokens"):
            recipe(folder, **changes)
    with pytest.raises(RecipeError, match="compile is for latents"):
        recipe(folder, compile=True)
    with pytest.raises(RecipeError, match="batch_size=None"):
        recipe(folder, objective=objective(folder, data=(Latents("latents"),)))
