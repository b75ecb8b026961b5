"""Mutoscope: the whole life of a video generator, from raw clips to a served model.

The public face is what `__all__` lists; nothing else is promised. Torch is imported only when a name that needs it is
first used, so that `import mutoscope` and `mutoscope --help` stay quick.
"""

from typing import TYPE_CHECKING

from mutoscope.core.errors import (
    MediaError,
    MissingExtra,
    MutoscopeError,
    RecipeError,
    RequestError,
    WeightsError,
)

if TYPE_CHECKING:
    from mutoscope.core.video import Video
    from mutoscope.loading import Loading, load
    from mutoscope.pipeline import Request

__version__ = "0.1.0.dev0"

__all__ = [
    "Loading",
    "MediaError",
    "MissingExtra",
    "MutoscopeError",
    "RecipeError",
    "Request",
    "RequestError",
    "Video",
    "WeightsError",
    "load",
]


def __getattr__(name: str) -> object:
    """Import `load`, `Loading`, `Request` and `Video` when they are first used (PEP 562)."""
    if name in ("load", "Loading"):
        from mutoscope import loading

        return getattr(loading, name)
    if name == "Request":
        from mutoscope.pipeline import Request

        return Request
    if name == "Video":
        from mutoscope.core.video import Video

        return Video
    raise AttributeError(f"module 'mutoscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
