"""Configuration: frozen dataclasses, written by a recipe file, changed by dotted overrides, saved as JSON.

A recipe is a Python file with a function `recipe()` that returns a frozen dataclass. Its resolved copy is JSON, stands
beside every output, and is read without executing any Python: each dataclass is an object tagged with its class name
under "type", and the name only chooses among the classes that the field's annotation allows.

A field may be annotated with bool, int, float, str, Path, Literal, a dataclass, a tuple or a union of these, or None.
"""

import dataclasses
import difflib
import json
import math
import runpy
import traceback
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mutoscope.core.errors import MutoscopeError, RecipeError
from mutoscope.core.files import replacing

C = TypeVar("C")

SPELLING: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def to_json(obj: Any) -> dict[str, Any]:
    """Turn a dataclass into plain JSON data.

    Args:
        obj: dataclass of the kinds of value that the module's docstring lists.

    Returns:
        Its fields by name, after "type", its class name; the same for every dataclass below it.

    Raises:
        RecipeError: a value is of another kind, or not a finite number.
    """
    return _plain(obj, "")


def from_json(cls: type[C], data: Any) -> C:
    """Build a dataclass from plain JSON data, checking every value against its annotation.

    Args:
        cls: class of the result.
        data: what `to_json` returned, or any other parsed JSON; "type" may be left out wherever only one class fits.

    Raises:
        RecipeError: a field is missing, unknown or mistyped; the message names it, by its dotted path, and what fits.
    """
    return _read(cls, data, "")


def changed(config: C, published: Mapping[str, Any], names: Mapping[str, str]) -> C:
    """Change a dataclass to what JSON of others says, which has other names for the same values.

    Args:
        config: the dataclass.
        published: parsed JSON; what it does not say stays.
        names: name there -> name of the field.

    Raises:
        RecipeError: a value does not fit its field.
    """
    said = {ours: published[theirs] for theirs, ours in names.items() if published.get(theirs) is not None}
    return from_json(type(config), to_json(config) | said)


def load_recipe(path: Path, cls: type[C]) -> C:
    """Read a recipe: run the function `recipe` of a ``.py`` file, or read a resolved ``.json`` file.

    Args:
        path: the recipe.
        cls: class that it must describe.

    Raises:
        RecipeError: the file cannot be read, does not run, or does not describe a `cls`.
    """
    if not path.is_file():
        raise RecipeError(f"there is no recipe at {path}. Give the path of a .py recipe or of a resolved .json.")
    if path.suffix == ".py":
        data = to_json(_run(path, cls))
    elif path.suffix == ".json":
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} is not valid JSON: {error}. Mend it, or write the recipe again.") from error
    else:
        raise RecipeError(f"{path} ends in {path.suffix!r}, but a recipe is a .py file or a resolved .json file.")
    try:
        return from_json(cls, data)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def override(obj: C, assignments: Sequence[str]) -> C:
    """Return a copy of a dataclass with some fields changed.

    Args:
        obj: dataclass to start from.
        assignments: texts such as ``phases.0.steps=10``, taken in turn. The value is
            JSON or, where the field takes text, text.

    Raises:
        RecipeError: a text is not NAME=VALUE, there is no such field, or the value does not fit it.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(f"the override {assignment!r} has no value. Type NAME=VALUE, such as phases.0.steps=100.")
        obj = _put(obj, type(obj), name.strip().split("."), text.strip(), "")
    return obj


def save_resolved(obj: Any, path: Path) -> None:
    """Write the JSON of a dataclass to `path`, whole or not at all.

    Raises:
        RecipeError: a value cannot be saved.
        MutoscopeError: the file cannot be written.
    """
    text = json.dumps(to_json(obj), indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, tuple | list):
        return [_plain(item, _below(where, index)) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        below = {name: _plain(getattr(value, name), _below(where, name)) for name in _field_names(type(value))}
        return {"type": type(value).__name__, **below}
    raise RecipeError(
        f"{_at(where)}{value!r} cannot be saved as JSON. Use dataclasses, tuples, paths, text and finite numbers."
    )


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(kind, data, where)
    if origin is tuple:
        return _read_tuple(kind, data, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if origin is Literal:
        fits = any(data == option and type(data) is type(option) for option in get_args(kind))
    elif kind is float:
        fits = type(data) in (int, float) and math.isfinite(data)
    elif kind is Path:
        fits = isinstance(data, str)
    elif kind in SPELLING:
        fits = type(data) is kind
    else:
        raise TypeError(f"{where}: {kind} is not a kind of field that config.py knows")
    if not fits:
        raise _misfit(kind, data, where)
    return kind(data) if kind in (float, Path) else data


def _read_union(union: Any, data: Any, where: str) -> Any:
    kinds: list[Any] = [kind for kind in get_args(union) if kind is not type(None)]
    if data is None and len(kinds) < len(get_args(union)):
        return None
    if len(kinds) == 1:  # the error inside says more than "does not fit"
        return _read(kinds[0], data, where)
    classes: dict[str, Any] = {_spell(kind): kind for kind in kinds if dataclasses.is_dataclass(kind)}
    if isinstance(data, Mapping) and classes:
        name = data.get("type", next(iter(classes)) if len(classes) == 1 else None)
        if name not in classes:
            raise RecipeError(f"{_at(where)}type is {name!r}, but {_choose(str(name), classes)}")
        return _read_dataclass(classes[name], data, where)
    for kind in kinds:
        with suppress(RecipeError):
            return _read(kind, data, where)
    raise _misfit(union, data, where)


def _read_tuple(kind: Any, data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise _misfit(kind, data, where)
    if not _is_open(kind) and len(data) != len(get_args(kind)):
        raise _misfit(kind, data, where)
    return tuple(_read(_item_kind(kind, index), item, _below(where, index)) for index, item in enumerate(data))


def _read_dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _misfit(cls, data, where)
    if data.get("type", cls.__name__) != cls.__name__:
        raise RecipeError(f"{_at(where)}type is {data['type']!r}, but {cls.__name__!r} is needed here.")
    names = _field_names(cls)
    for name in data:
        if name != "type" and name not in names:
            raise _unknown(cls, name, where)
    required = [
        f.name for f in dataclasses.fields(cls) if f.init and f.default is f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise RecipeError(f"{_at(where)}{cls.__name__} needs {' and '.join(missing)}. Add {missing[0]}=... to it.")
    kinds = get_type_hints(cls)
    return cls(**{name: _read(kinds[name], data[name], _below(where, name)) for name in names if name in data})


def _run(path: Path, cls: type) -> Any:
    """Run the recipe file of a user, in which anything can go wrong, and return what its function `recipe` returns."""
    try:
        recipe = runpy.run_path(str(path), run_name=path.stem).get("recipe")
        if not callable(recipe):
            raise RecipeError(f"{path} has no function recipe(). Add one that returns a {cls.__name__}.")
        result = recipe()
    except MutoscopeError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, reason = lines[-1] if lines else 1, str(error)
        if isinstance(error, SyntaxError):
            line, reason = error.lineno, error.msg
        raise RecipeError(f"{path}, line {line}: {type(error).__name__}: {' '.join(reason.split())}") from error
    if not isinstance(result, cls):
        raise RecipeError(f"{path}: recipe() returns {type(result).__name__}, but {cls.__name__} is needed.")
    return result


def _put(value: Any, kind: Any, path: Sequence[str], text: str, where: str) -> Any:
    """Return `value`, which is annotated with `kind`, with the item at `path` below it replaced by what `text` says."""
    if not path:
        return _parse(kind, text, where)
    name, here = path[0], _below(where, path[0])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if name not in _field_names(type(value)):
            raise _unknown(type(value), name, where)
        kinds = get_type_hints(type(value))
        return dataclasses.replace(value, **{name: _put(getattr(value, name), kinds[name], path[1:], text, here)})
    if isinstance(value, tuple):
        if not name.isdecimal() or int(name) >= len(value):
            raise RecipeError(f"there is no {here}: {where} has {len(value)} items, counted from 0.")
        index = int(name)
        item = _put(value[index], _item_kind(kind, index), path[1:], text, here)
        return (*value[:index], item, *value[index + 1 :])
    raise RecipeError(f"there is no {here}: {where} is {value!r}, which has nothing below it.")


def _parse(kind: Any, text: str, where: str) -> Any:
    """Read the value of an override: as JSON if that fits, else as text."""
    readings: list[Any] = []
    with suppress(ValueError):
        readings.append(json.loads({"True": "true", "False": "false", "None": "null", "none": "null"}.get(text, text)))
    readings.append(text)
    errors = []
    for reading in readings:
        try:
            return _read(kind, reading, where)
        except RecipeError as error:
            errors.append(error)
    raise errors[0]


def _field_names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _item_kind(kind: Any, index: int) -> Any:
    """Return the annotation of item `index` of a tuple, also where the annotation is a union with one tuple in it."""
    tuples = [option for option in (kind, *get_args(kind)) if get_origin(option) is tuple]
    return get_args(tuples[0])[0 if _is_open(tuples[0]) else index]


def _is_open(kind: Any) -> bool:
    return Ellipsis in get_args(kind)


def _below(where: str, name: str | int) -> str:
    return f"{where}.{name}" if where else str(name)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _spell(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(option) for option in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_spell(option) for option in get_args(kind))
    if get_origin(kind) is tuple and _is_open(kind):
        return f"a list, each item {_spell(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"[{', '.join(_spell(item) for item in get_args(kind))}]"
    return SPELLING.get(kind) or kind.__name__


def _misfit(kind: Any, data: Any, where: str) -> RecipeError:
    return RecipeError(f"{where or 'the recipe'} is {data!r}, but needs {_spell(kind)}.")


def _unknown(cls: Any, name: str, where: str) -> RecipeError:
    return RecipeError(f"{_below(where, name)} is not a field of {cls.__name__}: {_choose(name, _field_names(cls))}")


def _choose(name: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, options, n=1)
    question = f"did you mean {near[0]}? " if near else ""
    return f"{question}choose from {', '.join(options)}."
