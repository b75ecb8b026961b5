"""The order of batches follows from (seed, step): fair to weights, the same on any number of ranks, and resumable."""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from hypothesis import given as law
from hypothesis import settings
from hypothesis import strategies as st

from mutoscope.core.errors import MediaError, RecipeError
from mutoscope.core.video import Video
from mutoscope.data import tars
from mutoscope.data.batches import Batches, BatchSettings, Pick, Shape
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.tars import Sample, Tars, Writer

SETTINGS = BatchSettings(tokens=4096, bases=(64, 128), lengths=(1, 5, 9), step_px=16, most_clips=8)


def count_tokens(shape: Shape) -> int:
    return (1 + (shape.num_frames - 1) // 4) * shape.height * shape.width // 256


def written(folder: Path, clips: list[tuple[int, int, int, float]], split: str = "train") -> Tars:
    """Write clips of these frames (8 a second), heights, widths and weights, which no test here decodes."""
    writer = Writer(folder / tars.shard_name(0), 0)
    for number, (num_frames, height, width, weight) in enumerate(clips):
        clip = Clip(f"c{number}", "test", num_frames, height, width, "8", split, (Caption("a"),))  # pyright: ignore[reportArgumentType]
        writer.add(Sample(clip, ".mp4", b"x", {"scores": {"weight": weight}}))
    writer.close()
    tars.write_index(folder, writer.rows)
    return Tars(folder)


def mixed(count: int = 60) -> list[tuple[int, int, int, float]]:
    """Clips of every kind: pictures and videos, wide and tall, long and short, of weights from 0.25 to 3."""
    draw = np.random.default_rng(0)
    sizes = [(64, 64), (72, 128), (128, 72), (128, 128), (144, 256), (256, 144)]
    lengths, weights = draw.choice([1, 6, 9, 30], count), draw.choice([0.25, 0.5, 1.0, 1.3, 3.0], count)
    picks = draw.integers(len(sizes), size=count)
    return [(int(n), *sizes[at], float(w)) for n, at, w in zip(lengths, picks, weights, strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Tars:
    return written(tmp_path_factory.mktemp("data"), mixed())


def test_a_clip_goes_to_the_longest_and_largest_bucket_that_it_fills(tmp_path: Path) -> None:
    known = {
        (30, 128, 128): Shape(9, 128, 128),
        (8, 128, 128): Shape(5, 128, 128),
        (30, 127, 200): Shape(9, 96, 144),  # too low for (128, 128), which would also cut off more
        (1, 300, 300): Shape(1, 128, 128),
        (30, 64, 64): Shape(9, 64, 64),
        (30, 63, 63): None,  # would have to be enlarged
        (4, 128, 128): None,  # too short
        (30, 128, 1024): None,  # far from all shapes
    }
    read = written(tmp_path, [(*clip, 1.0) for clip in known])
    made = Batches(read, replace(SETTINGS, most_cropped=0.2, tokens=10**6), count_tokens)
    found = {int(index): bucket.shape for bucket in made.buckets for index in bucket.indices}
    assert [found.get(index) for index in range(len(known))] == list(known.values())
    assert made.left_out == {"too short, too small or too far from all shapes": 3}
    assert made.lines()[-1] == "in no bucket: 3, too short, too small or too far from all shapes"


def test_no_clip_is_enlarged_or_lengthened_and_no_batch_is_over_its_budget(data: Tars) -> None:
    made = Batches(data, SETTINGS, count_tokens)
    for bucket in made.buckets:
        assert bucket.clips_per_batch * count_tokens(bucket.shape) <= SETTINGS.tokens
        for row in (data.rows[index] for index in bucket.indices):
            assert row.height >= bucket.shape.height and row.width >= bucket.shape.width
            assert row.num_frames >= bucket.shape.num_frames
            assert (row.num_frames == 1) == (bucket.shape.num_frames == 1), "pictures have buckets of their own"
    assert sum(len(bucket.indices) for bucket in made.buckets) + sum(made.left_out.values()) == len(data)


def test_a_shape_of_which_one_clip_is_more_than_a_batch_does_not_exist(tmp_path: Path) -> None:
    read = written(tmp_path, [(30, 128, 128, 1.0)])
    large, small = Shape(9, 128, 128), Shape(9, 64, 64)
    one = replace(SETTINGS, max_ratio=1.0)
    for tokens, shape in ((count_tokens(large), large), (count_tokens(large) - 1, small)):
        assert Batches(read, replace(one, tokens=tokens), count_tokens).buckets[0].shape == shape
    assert Batches(read, replace(one, tokens=count_tokens(large) - 1), count_tokens).lines()[-1] == (
        f"not used: 1 sizes of more than {count_tokens(large) - 1} tokens"
    )


def test_a_length_of_which_no_clip_is_within_the_budget_is_refused(tmp_path: Path) -> None:
    read = written(tmp_path, [(30, 128, 128, 1.0)])
    with pytest.raises(RecipeError, match=r"one clip of 9 frames: the smallest has 36\. .*take 9 out of lengths"):
        Batches(read, replace(SETTINGS, tokens=35), count_tokens)  # one of 5 frames has 24


def test_what_has_no_clip_is_told(tmp_path: Path) -> None:
    made = Batches(written(tmp_path, [(6, 64, 64, 1.0)]), SETTINGS, count_tokens)
    assert made.lines()[1:3] == ["length 1: no clip", "length 9: no clip"]
    with pytest.raises(RecipeError, match=r"has a bucket: 1 too short, .* raise tokens"):
        Batches(written(tmp_path / "short", [(4, 64, 64, 1.0)]), replace(SETTINGS, lengths=(5, 9)), count_tokens)


def drawn(made: Batches, steps: range) -> Counter[int]:
    return Counter(pick.index for step in steps for pick in made.picks(step)[1])


@settings(max_examples=6, deadline=None)
@law(seed=st.integers(0, 1000), ranks=st.sampled_from([1, 2, 4]))
def test_clips_are_drawn_as_often_as_they_weigh(data: Tars, seed: int, ranks: int) -> None:
    made, epochs = Batches(data, replace(SETTINGS, ranks=ranks), count_tokens, seed), 30
    counts = drawn(made, range(1, made.steps_before(epochs) + 1))
    for bucket in made.buckets:
        batch = bucket.clips_per_batch * ranks
        total = sum(counts[int(index)] for index in bucket.indices)
        weights = {int(index): data.rows[index].weight for index in bucket.indices}
        assert abs(total - epochs * sum(weights.values())) <= batch, "a bucket is at most one batch off"
        for index, weight in weights.items():
            # at most one batch and one draw off what is due
            off = 2 + weight * batch / sum(weights.values()) + weight / np.mean(list(weights.values()))
            assert abs(counts[index] - epochs * weight) <= off


def test_equal_clips_are_seen_once_in_each_pass_and_passes_differ(tmp_path: Path) -> None:
    made = Batches(written(tmp_path, [(1, 64, 64, 0.3)] * 21), SETTINGS, count_tokens)
    seen = [pick for step in range(1, 22) for pick in made.picks(step)[1]]  # 21 steps of 8: 8 passes
    passes = [seen[at : at + 21] for at in range(0, len(seen), 21)]
    assert all(sorted(pick.index for pick in one) == list(range(21)) for one in passes) and len(passes) == 8
    assert all({pick.draw for pick in one} == {number} for number, one in enumerate(passes))
    assert len({tuple(pick.index for pick in one) for one in passes}) == 8


def test_pictures_are_drawn_as_often_as_asked_beside_videos(tmp_path: Path) -> None:
    read = written(tmp_path, [(1, 64, 64, 1.0)] * 40 + [(9, 64, 64, 1.0)] * 40)
    for weight in (0.25, 1.0, 2.0):
        made = Batches(read, replace(SETTINGS, picture_weight=weight), count_tokens)
        counts = drawn(made, range(1, made.steps_before(40) + 1))
        pictures, videos = (sum(counts[index] for index in few) for few in (range(40), range(40, 80)))
        assert pictures / videos == pytest.approx(weight, rel=0.02)
    only = Batches(read, replace(SETTINGS, picture_weight=0), count_tokens)
    assert {bucket.shape.num_frames for bucket in only.buckets} == {9} and only.left_out == {"of weight 0": 40}


def test_a_draw_is_never_the_same_twice(data: Tars) -> None:
    made = Batches(data, SETTINGS, count_tokens)
    seen = [(pick.index, pick.draw) for step in range(1, 200) for pick in made.picks(step)[1]]
    assert len(set(seen)) == len(seen)
    for index in range(len(data)):
        draws = [draw for at, draw in seen if at == index]
        assert draws == list(range(len(draws))), "and they are counted as they come"


def test_any_step_follows_from_seed_and_step_alone(data: Tars) -> None:
    whole = [Batches(data, SETTINGS, count_tokens, 7).picks(step) for step in range(1, 40)]
    for stop in (1, 17, 38):
        made = Batches(data, SETTINGS, count_tokens, 7)
        first = made.resume(made.state(stop))
        assert [made.picks(step) for step in range(first, 40)] == whole[stop:]
    one = Batches(data, SETTINGS, count_tokens, 7)
    assert [one.picks(step) for step in reversed(range(1, 40))] == whole[::-1]
    assert [Batches(data, SETTINGS, count_tokens, 8).picks(step) for step in range(1, 40)] != whole


def test_every_world_sees_the_same_steps_and_every_rank_the_same_bucket(data: Tars) -> None:
    made = Batches(data, replace(SETTINGS, ranks=4), count_tokens)
    for step in range(1, 40):
        shape, picks = made.picks(step)
        assert [pick.place for pick in picks] == list(range(len(picks))) and len(picks) % 4 == 0
        for world in (1, 2, 4):
            shares = [made.micro_batches(step, rank, world) for rank in range(world)]
            assert {other for other, _ in shares} == {shape}
            batches = [batch for _, few in shares for batch in few]
            assert len(batches) == 4 and len({len(batch) for batch in batches}) == 1
            assert tuple(pick for batch in batches for pick in batch) == picks
    for rank, world in ((0, 3), (4, 4), (0, 8)):
        with pytest.raises(RecipeError, match="Set ranks to a multiple"):
            made.micro_batches(1, rank, world)


def test_only_clips_of_the_split_and_of_the_list_are_drawn(tmp_path: Path) -> None:
    read = written(tmp_path, [(1, 64, 64, 1.0)] * 5, "held_out")
    with pytest.raises(RecipeError, match="5 not asked for"):
        Batches(read, SETTINGS, count_tokens)
    made = Batches(read, replace(SETTINGS, splits=("held_out",)), count_tokens, only={"c1", "c3"})
    assert set(drawn(made, range(1, 9))) == {1, 3} and made.left_out == {"not asked for": 3}


def test_other_clips_weights_or_settings_cannot_be_gone_on_with(tmp_path: Path, data: Tars) -> None:
    made = Batches(data, SETTINGS, count_tokens)
    state = made.state(9)
    assert made.resume(state) == 10
    clips = mixed()
    others = [
        Batches(data, replace(SETTINGS, tokens=2048), count_tokens),
        Batches(data, SETTINGS, count_tokens, seed=1),
        Batches(data, SETTINGS, lambda shape: 1 + count_tokens(shape)),
        Batches(written(tmp_path / "a", clips[:-1]), SETTINGS, count_tokens),
        Batches(written(tmp_path / "b", [(*clips[0][:3], 9.0), *clips[1:]]), SETTINGS, count_tokens),
    ]
    for other in others:
        with pytest.raises(RecipeError, match="cannot go on exactly"):
            other.resume(state)


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": 0}, {"bases": ()}, {"lengths": (0,)}, {"ranks": 0}, {"most_cropped": 1.0}, {"max_ratio": 0.5}],
)
def test_settings_that_make_no_batches_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RecipeError):
        replace(SETTINGS, **wrong)


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="c0 has weight -1"):
        Batches(written(tmp_path, [(1, 64, 64, -1.0)]), SETTINGS, count_tokens)


# ---- frames ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Tars:
    """Three films of 12 frames at 16 a second, each frame a little brighter than the last, and two pictures."""
    folder = tmp_path_factory.mktemp("films")
    writer = Writer(folder / tars.shard_name(0), 0)
    for number, (height, width) in enumerate(product((64, 80), (96, 64))):
        frames = np.broadcast_to(20 * np.arange(12, dtype=np.uint8)[:, None, None, None], (12, height, width, 3))
        path = folder / ("clip.png" if number == 3 else "clip.mp4")
        Video.from_array(frames[5:6] if number == 3 else frames, 16).save(path)
        num_frames = 1 if number == 3 else 12
        clip = Clip(f"c{number}", "test", num_frames, height, width, "16", captions=(Caption(f"film {number}"),))
        writer.add(Sample(clip, path.suffix, path.read_bytes()))
    writer.close()
    tars.write_index(folder, writer.rows)
    return Tars(folder)


FILMS = BatchSettings(tokens=10**6, bases=(64,), lengths=(1, 3), fps=8, step_px=16, most_cropped=0.5, most_clips=2)


def test_batches_have_the_frames_of_their_clips_at_their_size_and_rate(films: Tars) -> None:
    made, starts = Batches(films, FILMS, count_tokens), set()
    for step in range(1, 13):
        (batch,) = made.load(step)
        assert batch.frames.shape == (len(batch.picks), *batch.shape, 3) and batch.frames.dtype == np.uint8
        for pick, clip, frames in zip(batch.picks, batch.clips, batch.frames, strict=True):
            assert clip.captions == (Caption(f"film {pick.index}"),) and clip.id == f"c{pick.index}"
            assert (clip.num_frames, clip.height, clip.width) == batch.shape
            levels = frames.mean(axis=(1, 2, 3)) / 20
            if pick.index == 3:
                assert levels.round().tolist() == [5]
            else:  # every second frame, from a place that is drawn: 0, 2, 4, 6
                assert levels.round().tolist() == [levels[0].round() + 2 * n for n in range(3)]
                assert (clip.fps, clip.stride) == ("8", 2)
                starts.add(int(levels[0].round()))
    assert starts == {0, 2, 4, 6}


def test_loaded_ahead_or_by_workers_is_the_same(films: Tars) -> None:
    made = Batches(films, replace(FILMS, ranks=2), count_tokens)
    plain = [batch.frames for step in range(4, 7) for batch in made.load(step, 1, 2)]
    ahead = [batch.frames for few in made.stream(4, 6, 1, 2) for batch in few]
    assert all(np.array_equal(a, b) for a, b in zip(plain, ahead, strict=True))


def test_a_clip_that_is_shorter_than_its_index_says_is_named(films: Tars) -> None:
    longer = Tars(films.folder)
    longer.rows = [replace(row, duration_s=9.0) for row in films.rows]
    made = Batches(longer, replace(FILMS, lengths=(60,)), count_tokens)
    with pytest.raises(MediaError, match=r"Clip c\d has 6 frames at 8 a second, and its index says 60"):
        made.load(1)
    assert isinstance(made.picks(1)[1][0], Pick)


def test_the_example_of_the_documentation_works(
    films: Tars, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs/life/train.md"
    code = page.read_text(encoding="utf-8").split("## Clips of many sizes")[1].split("```python\n")[2].split("```")[0]
    small = "bases=(64,), lengths=(1, 3), step_px=16, most_cropped=0.5, fps=8, ranks=2"
    code = code.replace("bases=(256, 512), lengths=(1, 17, 49), fps=16, ranks=8", small)
    assert small in code
    trained: list[tuple[int, ...]] = []
    given: dict[str, Any] = {
        "autoencoder": SimpleNamespace(latent_shape=lambda t, h, w: (8, t, h // 8, w // 8)),
        "train_on": lambda frames, captions: trained.append(frames.shape),
        "state": None,
        "last": 3,
        "workers": 0,
    }
    monkeypatch.chdir(films.folder.parent)
    films.folder.rename("set")
    exec(code, given)
    assert len(trained) == 6 and given["state"]["step"] == 3 and "steps an epoch" in capsys.readouterr().out
    exec(code, given | {"last": 5})
    assert len(trained) == 10
    Path("set").rename(films.folder)
