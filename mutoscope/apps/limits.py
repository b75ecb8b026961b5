"""What the bundled model cannot do: declined before it is tried, with what would work.

It knows one drawn world. A photo, or a prompt without a word of that world, would only come out as nonsense.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mutoscope.core.errors import RequestError
from mutoscope.encoders.words import MARKS, split
from mutoscope.worlds import oracle

# Words of any prompt: knowing these alone, a model knows nothing of what is asked for.
LITTLE = frozenset(split("a an the of on in at to and is are it its by with over from into up down front back one"))
SCENE = "a drawn world of seven moving shapes"
INSTEAD = "`mutoscope models` lists other models; --force tries all the same."


def refuse_foreign(
    model: str,
    prompt: str,
    unknown: Sequence[str],
    pictures: Sequence[tuple[Path, UInt8[np.ndarray, "H W 3"]]],
) -> None:
    """Refuse a prompt without a word that a model of the drawn world knows, and pictures of anything else.

    Args:
        model: its name.
        prompt: what is asked for.
        unknown: its words that the model does not know.
        pictures: conditioning images, with their files.

    Raises:
        RequestError: naming what works instead.
    """
    if unknown and not set(split(prompt)) - {*unknown, *LITTLE, *MARKS}:
        raise RequestError(
            f"{model} knows {SCENE}, and this prompt has no word of it. Try 'a small red star spins', see the words "
            f"with `mutoscope info {model}`; {INSTEAD}"
        )
    for path, picture in pictures:
        if not looks_drawn(picture):
            raise RequestError(
                f"{model} knows {SCENE}, and {path} does not look like it. Try a frame of "
                f"`mutoscope world clips --out clips`; {INSTEAD}"
            )


def looks_drawn(picture: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Tell whether a picture shows a scene of the procedural world, by its oracle."""
    if min(picture.shape[:2]) < oracle.MIN_SIDE:
        return True  # too small to tell
    reading = oracle.measure(np.repeat(picture[None], oracle.MIN_FRAMES, axis=0))
    return reading.background is not None
