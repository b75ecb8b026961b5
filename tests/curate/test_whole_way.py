"""The whole way, by the recipes that the docs name: raw videos, a data set with its card, a training that eats it."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")

from mutoscope.apps.curation import CurateJob, curate
from mutoscope.core import config
from mutoscope.data.tars import Tars
from mutoscope.train.loop import run
from mutoscope.train.recipe import Recipe
from mutoscope.worlds import footage

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/curate"
MEDIA = ROOT.parent / "shared/media/public"
REAL = ("rabbit_small_320.webm", "derived_portrait_signing.mp4")


def train(out: Path, folder: Path) -> list[dict]:
    """Train three steps on a data set, at half the size; return the log."""
    latents = f"{folder}/latents"
    recipe = config.override(
        config.load_recipe(RECIPES / "train.py", Recipe),
        [
            f"phases.0.source.folder={out}",
            f"phases.0.folder={latents}",
            f"phases.1.objective.data.0.folder={latents}",
            *(f"phases.0.source.{side}=32" for side in ("height", "width")),
            *("phases.1.steps=3", "phases.1.batch_size=2", "phases.1.log_every=1"),
        ],
    )
    assert run(recipe, folder / "run").is_file()
    return [json.loads(line) for line in (folder / "run/clips/log.jsonl").read_text().splitlines()]


def test_footage_of_the_world_becomes_a_data_set_that_training_eats(tmp_path: Path) -> None:
    film = footage.sample(3, size=(96, 128), fps=12, shots=2).video()
    (tmp_path / "raw").mkdir()
    film.save(tmp_path / "raw/film.mp4")
    film.save(tmp_path / "raw/worse.mp4", quality="small")
    lines = curate(CurateJob((str(tmp_path / "raw"),), tmp_path / "set", RECIPES / "world.py", workers=0))
    kept = Tars(tmp_path / "set").rows
    assert kept and lines[0].startswith(f"{len(kept)} of ")
    assert {row.source for row in kept} == {str(tmp_path / "raw/film.mp4")}
    assert "perceptual duplicate of a clip that is" in (tmp_path / "set/card.html").read_text()
    log = train(tmp_path / "set", tmp_path)
    assert [line["step"] for line in log] == [1, 2, 3] and all(0 < line["loss"] < 100 for line in log)


@pytest.mark.skipif(not MEDIA.exists(), reason="the real clips are kept beside the repository, not in it")
def test_real_clips_become_a_data_set_that_training_eats(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in REAL:
        shutil.copy(MEDIA / name, tmp_path / "raw" / name)
    curate(CurateJob((str(tmp_path / "raw"),), tmp_path / "set", workers=0))
    kept = Tars(tmp_path / "set").rows
    assert {Path(row.source).name for row in kept} == set(REAL)
    assert len(train(tmp_path / "set", tmp_path)) == 3
