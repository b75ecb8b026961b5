"""A data set that was curated becomes latents: its videos and its pictures, each frame where it belongs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow", reason="needs the extra curate")
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core import config, weights
from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.data import tars
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.shards import Shards
from mutoscope.data.tars import Sample, Writer
from mutoscope.train import precompute
from mutoscope.train.precompute import DatasetClips, Precompute

LEVELS = {"a": 40, "b": 200}  # of the frames of two videos; b is twice as long


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos at 16 frames a second, whose level rises by one each frame, and a picture."""
    at = tmp_path_factory.mktemp("dataset")
    writer = Writer(at / "shards" / tars.shard_name(0), 0)
    for name, level in LEVELS.items():
        length = 20 if name == "a" else 40
        frames = np.full((length, 32, 48, 3), level, np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None]
        Video.from_array(frames, 16).save(at / "clip.mp4", quality="best")
        clip = Clip(name, f"{name}.mkv", length, 32, 48, "16", "held_out", (Caption(f"it is {name}"),))
        writer.add(Sample(clip, ".mp4", (at / "clip.mp4").read_bytes()))
    Video.from_array(np.full((1, 32, 48, 3), 90, np.uint8), 1).save(at / "clip.png")
    writer.add(
        Sample(Clip("c", "c.png", 1, 32, 48, "1", "any", (Caption(""),)), ".png", (at / "clip.png").read_bytes())
    )
    writer.close()
    tars.write_index(at / "shards", writer.rows, {"plan": "one"})
    return at


def test_videos_are_cut_into_clips_at_the_rate_asked_for(dataset: Path) -> None:
    source = DatasetClips(str(dataset), num_frames=8, height=32, width=48, fps=8, windows=5)
    clips = [clip.load() for clip in source.listing()]
    assert [record.id for _, record in clips] == ["a-0", "b-0", "b-1"]
    for (frames, record), first in zip(clips, (40, 200, 216), strict=True):
        assert np.abs(frames.mean((1, 2, 3)) - (first + 2 * np.arange(8))).max() < 2
        assert (record.split, record.stride, record.num_frames, record.fps) == ("held_out", 2, 8, "8")
    assert clips[0][1].captions == (Caption("it is a"),) and clips[0][1].source == "a.mkv"


def test_pictures_are_taken_where_one_frame_is_asked_for(dataset: Path) -> None:
    (clip,) = DatasetClips(str(dataset), num_frames=1, height=32, width=32, crop=True).listing()
    frames, record = clip.load()
    assert frames.shape == (1, 32, 32, 3) and np.all(frames == 90) and record.id == "c-0" and record.crop_left == 8


def test_a_data_set_of_short_clips_is_refused(dataset: Path) -> None:
    with pytest.raises(MediaError, match=r"No video of .* has 99 frames"):
        DatasetClips(str(dataset), num_frames=99, height=32, width=48).listing()


def test_of_a_data_set_with_levels_one_can_be_taken(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/shards").symlink_to(dataset / "shards")
    levels = pa.array([["256p"], ["256p", "540p"], ["256p"], None], pa.list_(pa.string()))
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], "levels": levels}), tmp_path / "set/clips.parquet")
    source = DatasetClips(str(tmp_path / "set"), num_frames=8, height=32, width=48, fps=8)
    for level, ids in ((None, ["a", "b"]), ("256p", ["a", "b"]), ("540p", ["b"])):
        assert [clip.id for clip in replace(source, level=level).listing()] == ids
    with pytest.raises(MediaError, match=r"'720p'. Choose from 256p, 540p"):
        replace(source, level="720p").listing()
    with pytest.raises(MediaError, match="has no levels"):
        replace(source, folder=str(dataset), level="540p").listing()


def test_a_data_set_becomes_latents_and_one_curated_anew_is_not_mixed_in(dataset: Path, tmp_path: Path) -> None:
    state = ToyAutoencoder(ToyConfig(latent_channels=4)).state_dict()
    described = {"config": json.dumps(config.to_json(ToyConfig(latent_channels=4)))}
    weights.save(tmp_path / "autoencoder.safetensors", state, described)
    source = DatasetClips(str(dataset), num_frames=8, height=32, width=32, crop=True, windows=2)
    task = Precompute("latents", source, str(tmp_path / "autoencoder.safetensors"), str(tmp_path / "latents"))
    precompute.encode(task)
    made = Shards(tmp_path / "latents")
    assert [made.clip(i).id for i in range(len(made))] == ["a-0", "b-0", "b-1"]
    assert torch.isfinite(made.latents(2)).all() and config.from_json(Precompute, config.to_json(task)) == task
    tars.write_index(dataset / "shards", tars.Tars(dataset).rows, {"plan": "another"})
    try:
        with pytest.raises(MediaError, match="plan"):
            precompute.encode(task)
    finally:
        tars.write_index(dataset / "shards", tars.Tars(dataset).rows, {"plan": "one"})
