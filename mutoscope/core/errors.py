"""Everything a user can get wrong, in one tree.

    MutoscopeError            what the command line prints as one line, with exit code 2
    ├── RequestError          a size, frame count, prompt or option that cannot be served
    ├── MediaError            a picture or video that cannot be read or written
    ├── WeightsError          weights that are missing, damaged, or of another network
    ├── RecipeError           a recipe with a missing, unknown or mistyped field
    ├── ChatError             a language model that cannot be reached, or does not answer
    └── MissingExtra          an optional dependency that is not installed

A message is one sentence or two: what was given, what is needed, what to type next.
"""

from typing import Literal


class MutoscopeError(Exception):
    """Stop with one clear line. Base of every error that a user can put right."""


class RequestError(MutoscopeError):
    """A request that no model could serve as it stands."""


class MediaError(MutoscopeError):
    """A picture or video that cannot be read or written."""


class WeightsError(MutoscopeError):
    """Weights that are missing, damaged, or made for another network."""


class RecipeError(MutoscopeError):
    """A recipe with a missing, unknown or mistyped field."""


class ChatError(MutoscopeError):
    """A language model that cannot be reached, or does not answer.

    Args:
        message: what happened, and what to do.
        blame: what it is about: this one ``request``, which would fail again; the ``server``, which may do better
            later; or the ``setup``, with which no request can succeed.
        retry_after_s: seconds that the server asks to wait for.
        status: of HTTP, 0 where there was none.
    """

    def __init__(
        self,
        message: str,
        blame: Literal["request", "server", "setup"] = "server",
        retry_after_s: float = 0.0,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.blame = blame
        self.retry_after_s = retry_after_s
        self.status = status


class MissingExtra(MutoscopeError):
    """An optional dependency that is not installed.

    Args:
        extra: name of the extra that brings it, such as ``train``.
        package: the distribution that is missing.
        what_for: what it would have been used for, to complete "... needs PACKAGE".
    """

    def __init__(self, extra: str, package: str, what_for: str) -> None:
        super().__init__(f"{what_for} needs {package}, which is not installed. Type: pip install 'mutoscope[{extra}]'")
