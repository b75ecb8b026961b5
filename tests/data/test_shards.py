"""Shards come back as written, and a shard that is not whole is not there."""

from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import MediaError
from mutoscope.data import shards
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.shards import Shards


def clips(count: int, first: int = 0) -> list[Clip]:
    return [
        Clip(
            f"clip-{first + i}",
            "test",
            4,
            8,
            8,
            "30000/1001",
            captions=(Caption("红色\u2028的圆"), Caption("a circle")),
        )
        for i in range(count)
    ]


def written(folder: Path, counts: tuple[int, ...] = (3, 2)) -> list[torch.Tensor]:
    shards.describe(folder, {"source": "test"})
    made = [torch.randn(count, 2, 4, 3, 3).half() for count in counts]
    for index, latents in enumerate(made):
        shards.write(folder, index, latents, clips(len(latents), 3 * index))
    return made


def test_shards_give_back_latents_and_records_as_written(tmp_path: Path) -> None:
    made = torch.cat(written(tmp_path))
    read = Shards(tmp_path)
    assert len(read) == 5 and read.latent_shape == (2, 4, 3, 3)
    assert torch.equal(torch.stack([read.latents(i) for i in range(5)]), made.float())
    assert [read.clip(i) for i in range(5)] == clips(5)
    assert torch.equal(read.latents(4, slice(1, 2)), made[4, :, 1:2].float())


def test_a_shard_without_its_records_is_not_seen(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "00001.jsonl").unlink()  # as when the process dies between the two files
    assert len(Shards(tmp_path)) == 3
    assert shards.rows(tmp_path, 1) == 0 and shards.count(tmp_path) == 3


def test_a_folder_begun_with_another_source_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    shards.describe(tmp_path, {"source": "test"})
    with pytest.raises(MediaError, match="source"):
        shards.describe(tmp_path, {"source": "another"})


def test_a_truncated_shard_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(MediaError, match=r"00001\.safetensors"):
        Shards(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="Precompute"):
        Shards(tmp_path)
    shards.describe(tmp_path, {})
    with pytest.raises(MediaError, match="Precompute"):
        Shards(tmp_path)


def test_a_clip_without_any_text_is_refused() -> None:
    with pytest.raises(MediaError, match="no caption"):
        Clip("a", "test", 1, 8, 8, "8")
