"""A judge on any image classifier of `transformers`: how sure it is of one class, such as what is not safe to show.

frames ── Layout ── network ──> "N classes" ── softmax, or a sigmoid where classes do not exclude each other
                                                   └─ the class asked for, greatest or mean over the clip
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mutoscope.core.errors import WeightsError
from mutoscope.encoders.pretrained import load_config, load_network, needs_transformers
from mutoscope.scorers.judge import Column, Place, Row, Seen, Seer, batches, bring, per_clip, pictures
from mutoscope.scorers.pixels import Layout

FOLDER = "image classifier"


@dataclass(frozen=True)
class Classifier:
    """How sure an image classifier is that a clip is of one class.

    Step-Video-T2V filters by a classifier of unsafe pictures and one of watermarks. Weights for the first are, for
    example, Falconsai/nsfw_image_detection (Apache-2.0, label "nsfw").

    Args:
        weights: folder of an image classifier, or ``hub:OWNER/NAME``.
        label: the class, as the weights' config.json has it under "id2label".
        name: of the column; the label if not given.
        better: which direction is better.
        over_frames: what of a clip's frames counts: the greatest, or the mean.
        frames: of a clip that are looked at.
    """

    weights: str
    label: str
    name: str = ""
    better: Literal["higher", "lower", "neither"] = "lower"
    over_frames: Literal["greatest", "mean"] = "greatest"
    frames: int = 3

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name or self.label, "of 1", self.better, f"how sure a classifier is of {self.label!r}"),)

    def check(self) -> None:
        with needs_transformers(FOLDER):
            import transformers  # noqa: F401
        self._number(bring(self.weights, FOLDER))

    def open(self, place: Place) -> Seer:
        with needs_transformers(FOLDER):
            from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as KINDS
        folder = bring(self.weights, FOLDER)
        number, config, layout = self._number(folder), load_config(folder), Layout.of(folder)
        kinds: Any = KINDS
        if type(config) not in kinds:
            raise WeightsError(f"{self.weights} holds a {config.model_type}, no image classifier. Name another folder.")
        network = load_network(kinds[type(config)], folder, config, dtype=place.torch_dtype).to(place.device)
        excludes = config.problem_type != "multi_label_classification"
        column, pick = self.columns[0].name, np.max if self.over_frames == "greatest" else np.mean

        @torch.inference_mode()
        def see(seen: Sequence[Seen]) -> list[Row]:
            found = []
            for part in batches(pictures(seen), place.batch):
                marks = network(pixel_values=layout(part).to(place.device, place.torch_dtype)).logits.float()
                marks = marks.softmax(dim=-1) if excludes else marks.sigmoid()
                found.append(marks[:, number].cpu().numpy())
            return [{column: float(pick(some))} for some in per_clip(seen, np.concatenate(found))]

        return see

    def _number(self, folder: Path) -> int:
        known: dict[int, str] = load_config(folder).id2label
        number = next((number for number, label in known.items() if label == self.label), None)
        if number is None:
            raise WeightsError(
                f"{self.weights} knows no class {self.label!r}. Choose from {', '.join(known.values())}."
            )
        return number
