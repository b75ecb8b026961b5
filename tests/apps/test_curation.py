"""The command makes a data set of what is given, and refuses in one line what it cannot do."""

from pathlib import Path

import pytest

from mutoscope.apps import curation
from mutoscope.apps.curation import CurateJob, curate
from mutoscope.core.errors import MissingExtra, RecipeError, RequestError

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")

from mutoscope.core import config
from mutoscope.curate.recipe import default
from mutoscope.curate.runner import Curation
from mutoscope.data.tars import Tars
from tests.curate import damage

RECIPES = Path(__file__).parents[2] / "recipes/curate"


def test_a_folder_becomes_a_data_set_with_its_card(tmp_path: Path) -> None:
    damage.write_video(tmp_path / "raw/a.mp4", 16, size=(64, 96))
    damage.write_photo(tmp_path / "raw/b.jpg")
    (tmp_path / "raw/c.mp4").write_bytes(b"")
    lines = curate(CurateJob((str(tmp_path / "raw"),), tmp_path / "set", workers=0))
    assert lines[0] == "2 of 2 clips from 2 of 3 files are kept" and lines[-1].startswith(f"{tmp_path}/set/card.html")
    assert sorted(row.suffix for row in Tars(tmp_path / "set").rows) == [".jpg", ".mp4"]
    assert "it is empty" in (tmp_path / "set/card.html").read_text()


def test_the_recipe_beside_a_data_set_makes_it_again(tmp_path: Path) -> None:
    damage.write_photo(tmp_path / "raw/b.jpg")
    job = CurateJob((str(tmp_path / "raw"),), tmp_path / "set", override=("write.shard_clips=7",), workers=0)
    curate(job)
    again = CurateJob(job.sources, tmp_path / "again", tmp_path / "set/recipe.json", workers=0)
    curate(again)
    one, two = (folder / "shards/00000.tar" for folder in (job.out, again.out))
    assert one.read_bytes() == two.read_bytes()
    assert config.load_recipe(tmp_path / "again/recipe.json", Curation).write.shard_clips == 7


@pytest.mark.parametrize("name", ["captions", "clips", "nested", "world"])
def test_the_recipes_of_the_package_can_be_read_and_saved(tmp_path: Path, name: str) -> None:
    recipe = config.load_recipe(RECIPES / f"{name}.py", Curation)
    config.save_resolved(recipe, tmp_path / "recipe.json")
    assert config.load_recipe(tmp_path / "recipe.json", Curation) == recipe
    assert config.from_json(Curation, config.to_json(default())) == default()


def test_what_is_missing_or_wrong_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = CurateJob((str(tmp_path / "nowhere"),), tmp_path / "set")
    with pytest.raises(RequestError, match="does not exist"):
        curate(job)
    with pytest.raises(RequestError, match="workers=-1"):
        curate(CurateJob(job.sources, job.out, workers=-1))
    with pytest.raises(RecipeError, match="did you mean write"):
        curate(CurateJob(job.sources, job.out, override=("writing.shard_clips=1",)))
    monkeypatch.setattr(curation, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra, match=r"mutoscope\[curate\]"):
        curate(job)
    assert not job.out.exists()
