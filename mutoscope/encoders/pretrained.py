"""The door to `transformers`, which holds the published text and image encoders: imported only when one is loaded.

A folder is loaded strictly: safetensors alone, every weight of the network found in it, and nothing left over but what
the caller names. Nothing is fetched here; `core` brings folders onto this machine.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mutoscope.core.errors import MissingExtra, RequestError, WeightsError
from mutoscope.core.weights import summary

N = TypeVar("N", bound=nn.Module)


@contextmanager
def needs_transformers(what_for: str) -> Iterator[None]:
    """Turn a failed import of `transformers` inside the block into one sentence.

    Args:
        what_for: what needs it, to begin the sentence with.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra("hub", "transformers", what_for) from error


def load_config(folder: Path) -> Any:
    """Read the config of a folder, to be changed before `load_network`.

    Raises:
        MissingExtra: `transformers` is not installed.
        WeightsError: there is no config.
    """
    with needs_transformers(f"The encoder in {folder}"):
        from transformers import AutoConfig
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"there is no encoder at {folder}: config.json is missing. Download it again, or check the name."
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def load_network(
    kind: type[N],
    folder: Path,
    config: Any = None,
    *,
    unread: str = r"(?!)",
    renamed: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> N:
    """Load a frozen network of `transformers` from a folder.

    Args:
        kind: its class.
        folder: with ``config.json`` and safetensors.
        config: its config, when it is to be another than the folder's.
        unread: a pattern that matches the names of the weights that may stay unread.
        renamed: patterns of what to replace in the names of the weights, and by what.
        dtype: of the network; None for that of its weights.

    Raises:
        WeightsError: a weight is missing, not known or of another shape, or the folder cannot be read.
    """
    config = config or load_config(folder)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    if renamed is not None:
        options["key_mapping"] = dict(renamed)
    try:
        with _quiet():
            network, found = kind.from_pretrained(folder, config=config, dtype=dtype or "auto", **options)  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"cannot load {kind.__name__} from {folder}: {reason} Download it again.") from error
    problems = {
        "missing": sorted(found["missing_keys"]),
        "unknown": sorted(name for name in found["unexpected_keys"] if not re.match(unread, name)),
        "of another shape": sorted(str(name) for name in found["mismatched_keys"]),
    }
    if any(problems.values()):
        raise WeightsError(
            f"{folder} does not fit {kind.__name__}: {summary(problems)}. Choose the folder made for it."
        )
    return network.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        MissingExtra: `transformers` is not installed.
        WeightsError: there is none in the folder.
    """
    with needs_transformers(f"The tokenizer in {folder}"):
        from transformers import AutoTokenizer
    if not folder.is_dir():
        raise WeightsError(f"there is no tokenizer at {folder}. Download it again, or check the name.")
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"cannot load the tokenizer in {folder}: {reason} Download it again.") from error


def token_ids(tokenizer: Any, texts: list[str], max_tokens: int, what_is_read: str) -> list[list[int]]:
    """Return the numbers of each text's tokens, special ones included.

    Raises:
        RequestError: a text has more than `max_tokens`.
    """
    rows = tokenizer(texts)["input_ids"]
    longest = max(map(len, rows))
    if longest > max_tokens:
        raise RequestError(
            f"The prompt has {longest} tokens with {what_is_read}; this model reads at most {max_tokens}. Shorten it."
        )
    return rows


def pad(
    rows: list[list[int]], padding: int, length: int | None = None
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Stack rows of numbers, filled up behind to `length` or to the longest; and say which are real."""
    length = length or max(map(len, rows))
    ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
    mask = torch.tensor([[index < len(row) for index in range(length)] for row in rows])
    return ids, mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from printing progress and reports; what is wrong is said by an error."""
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
