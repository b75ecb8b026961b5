import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.config import from_json, load_recipe, override, save_resolved, to_json
from mutoscope.core.errors import MutoscopeError, RecipeError


@dataclass(frozen=True)
class Warmup:
    steps: int = 10


@dataclass(frozen=True)
class Cosine:
    steps: int
    floor: float = 0.0


@dataclass(frozen=True)
class Phase:
    name: str
    steps: int
    rate: float = 1e-3
    schedule: Warmup | Cosine = Warmup()
    dtype: Literal["float32", "bfloat16"] = "float32"
    init: Path | None = None
    crop: tuple[int, int] | None = None
    is_masked: bool = False


@dataclass(frozen=True)
class Recipe:
    phases: tuple[Phase, ...]
    seed: int = 0
    tag: int | str = ""


RECIPE = Recipe(
    phases=(
        Phase("images", 100, init=Path("runs/a.safetensors")),
        Phase("video", 200, rate=2e-4, schedule=Cosine(5, 0.1), dtype="bfloat16", crop=(8, 4), is_masked=True),
    ),
    tag="x",
)

phases = st.builds(
    Phase,
    name=st.text(),
    steps=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    schedule=st.builds(Warmup, st.integers()) | st.builds(Cosine, st.integers(), st.floats(0, 1)),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    init=st.none() | st.sampled_from([Path("a"), Path("b/c.pt")]),
    crop=st.none() | st.tuples(st.integers(), st.integers()),
    is_masked=st.booleans(),
)
recipes = st.builds(Recipe, st.lists(phases, max_size=3).map(tuple), st.integers(), st.integers() | st.text())


@given(recipes)
def test_json_text_gives_back_the_same_dataclass(recipe: Recipe) -> None:
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_every_object_is_tagged_with_its_class() -> None:
    data = to_json(RECIPE)
    assert data["type"] == "Recipe"
    assert data["phases"][1]["schedule"] == {"type": "Cosine", "steps": 5, "floor": 0.1}


def test_whole_number_is_read_as_float_where_a_float_is_declared() -> None:
    phase = from_json(Phase, {"name": "a", "steps": 1, "rate": 1})
    assert type(phase.rate) is float


PHASE = {"name": "a", "steps": 1}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"phases": [{"name": "a"}]}, ["phases.0", "Phase", "steps"]),
        ({"phases": [PHASE | {"stpes": 3}]}, ["phases.0.stpes", "did you mean steps?", "is_masked"]),
        ({"phases": [PHASE | {"steps": 1.5}]}, ["phases.0.steps is 1.5", "a whole number"]),
        ({"phases": [PHASE | {"steps": True}]}, ["phases.0.steps is True", "a whole number"]),
        ({"phases": [PHASE | {"is_masked": 1}]}, ["phases.0.is_masked is 1", "true or false"]),
        ({"phases": [PHASE | {"rate": float("nan")}]}, ["phases.0.rate is nan", "a number"]),
        ({"phases": [PHASE | {"dtype": "float16"}]}, ["phases.0.dtype", '"float32" or "bfloat16"']),
        ({"phases": [PHASE | {"crop": [1, 2, 3]}]}, ["phases.0.crop", "[a whole number, a whole number]"]),
        (
            {"phases": [PHASE | {"schedule": {"type": "Cosin"}}]},
            ["phases.0.schedule", "did you mean Cosine?", "Warmup"],
        ),
        ({"phases": [PHASE | {"schedule": {"steps": 3}}]}, ["phases.0.schedule", "Warmup, Cosine"]),
        ({"phases": [PHASE | {"schedule": 3}]}, ["phases.0.schedule is 3", "Warmup or Cosine"]),
        ({"phases": PHASE}, ["phases is", "a list, each item Phase"]),
        ({"phases": [3]}, ["phases.0 is 3", "Phase"]),
        ({"phases": [], "tag": 1.5}, ["tag is 1.5", "a whole number or text"]),
        ({"type": "Phase", "phases": []}, ["'Phase'", "'Recipe'"]),
        ([], ["the recipe is []", "Recipe"]),
    ],
)
def test_error_names_the_field_and_what_fits_it_in_one_line(data: Any, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        from_json(Recipe, data)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("inf"), len, {"a": 1}, Warmup])
def test_value_that_json_cannot_hold_is_refused_by_name(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"phases\.0\.name: .* cannot be saved"):
        to_json(Recipe((Phase(value, 1),)))


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("phases.0.steps=10", {"steps": 10}),
        ("phases.0.rate=1e-4", {"rate": 1e-4}),
        ("phases.0.rate=1", {"rate": 1.0}),
        ("phases.0.name=12", {"name": "12"}),
        ("phases.0.name=a=b", {"name": "a=b"}),
        ("phases.0.name=None", {"name": "None"}),
        ("phases.0.is_masked=True", {"is_masked": True}),
        ("phases.0.init=none", {"init": None}),
        ("phases.0.init=b/c", {"init": Path("b/c")}),
        ("phases.0.crop=[2, 3]", {"crop": (2, 3)}),
        ("phases.0.schedule.steps=3", {"schedule": Warmup(3)}),
        ('phases.0.schedule={"type": "Cosine", "steps": 3}', {"schedule": Cosine(3)}),
        ("phases.0.dtype=bfloat16", {"dtype": "bfloat16"}),
    ],
)
def test_override_changes_one_field_and_is_typed_by_its_annotation(assignment: str, changed: dict[str, Any]) -> None:
    result = override(RECIPE, [assignment])
    assert result == dataclasses.replace(
        RECIPE, phases=(dataclasses.replace(RECIPE.phases[0], **changed), RECIPE.phases[1])
    )


def test_override_reaches_an_item_of_an_optional_tuple() -> None:
    assert override(RECIPE, ["phases.1.crop.0=9"]).phases[1].crop == (9, 4)


def test_later_override_wins() -> None:
    assert override(RECIPE, ["seed=1", "tag=y", "seed=2"]) == dataclasses.replace(RECIPE, seed=2, tag="y")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("seed", ["NAME=VALUE"]),
        ("phases.0.stpes=3", ["phases.0.stpes", "did you mean steps?"]),
        ("phases.2.steps=3", ["phases.2", "2 items"]),
        ("phases.first.steps=3", ["phases.first", "2 items"]),
        ("seed.x=3", ["seed.x", "seed is 0"]),
        ("seed=1e3", ["seed is 1000.0", "a whole number"]),
        ("seed=ten", ["seed is 'ten'", "a whole number"]),
        ("phases.0.crop.0=1", ["phases.0.crop.0", "is None"]),
    ],
)
def test_override_that_does_not_fit_says_why(assignment: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        override(RECIPE, [assignment])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_resolved_copy_of_a_python_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    python = tmp_path / "toy.py"
    python.write_text(
        "import sys\nSTEPS = 7\n"
        f"def recipe():\n    here = sys.modules[{__name__!r}]\n"
        "    return here.Recipe(phases=[here.Phase('a', STEPS, rate=1)])\n"
    )
    recipe = load_recipe(python, Recipe)
    assert recipe == Recipe(phases=(Phase("a", 7, rate=1.0),))
    save_resolved(recipe, tmp_path / "toy.json")
    assert load_recipe(tmp_path / "toy.json", Recipe) == recipe


def test_json_recipe_cannot_name_a_class_outside_the_annotation(tmp_path: Path) -> None:
    path = tmp_path / "evil.json"
    path.write_text(json.dumps({"type": "Recipe", "phases": [PHASE | {"schedule": {"type": "subprocess.Popen"}}]}))
    with pytest.raises(RecipeError, match=r"evil\.json: phases\.0\.schedule: type is 'subprocess\.Popen'"):
        load_recipe(path, Recipe)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.py", "def recipe():\n    return 1 / 0\n", ["a.py, line 2", "ZeroDivisionError: division by zero"]),
        ("a.py", "import nothing_of_this_name\n", ["a.py, line 1", "ModuleNotFoundError"]),
        ("a.py", "def recipe(:\n", ["a.py, line 1", "SyntaxError"]),
        ("a.py", "x = 1\n", ["a.py", "no function recipe()", "Recipe"]),
        ("a.py", "def recipe():\n    return 3\n", ["a.py", "returns int", "Recipe"]),
        ("a.json", "{", ["a.json", "not valid JSON"]),
        ("a.json", "[]", ["a.json", "needs Recipe"]),
        ("a.yaml", "phases: []", [".yaml", ".py", ".json"]),
    ],
)
def test_recipe_that_cannot_be_read_says_where_in_one_line(
    tmp_path: Path, name: str, text: str, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path, Recipe)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at .*nowhere"):
        load_recipe(tmp_path / "nowhere.py", Recipe)


def test_resolved_copy_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    save_resolved(RECIPE, path)
    before = path.read_bytes()
    with pytest.raises(MutoscopeError):
        save_resolved(dataclasses.replace(RECIPE, tag=float("nan")), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
