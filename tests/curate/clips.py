"""Clips to caption, made up, and answers about them that are as they should be."""

import json
from typing import Any

import numpy as np

from mutoscope.core.chat import Endpoint, EndpointChat, jpeg
from mutoscope.curate.view import View
from tests.curate.chat_server import Asked, Server

GOOD: dict[str, str] = {
    "short": "A red kite flies over the sea.",
    "dense": "A red kite flies over the sea at dawn. It rises, turns to the left, and comes down on the sand again.",
    "background": "the open sea",
    "style": "home video",
    "shot": "wide shot",
    "lighting": "soft light of the morning",
    "atmosphere": "calm",
    "camera": "pan left",
}


def good(asked: Asked) -> str:
    """Describe a clip so that the answer tells which pictures were seen."""
    level = round(float(np.mean([np.asarray(picture) for picture in asked.pictures])))
    return json.dumps(GOOD | {"background": f"a wall of brightness {level}"})


def grey(id: str, level: int = 100, duration_s: float = 2.0) -> View:
    """A clip whose frames are grey."""
    picture = jpeg(np.full((16, 16, 3), level, np.uint8))
    return View(id, duration_s, lambda count: (picture,) * (count if duration_s else 1))


def chat_with(server: Server, **settings: Any) -> EndpointChat:
    """Open a model that is asked again at once."""
    return EndpointChat(Endpoint(server.url, **{"attempts": 2, "timeout_s": 10, **settings}), lambda _: None)
