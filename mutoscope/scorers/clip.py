"""Judges on CLIP or SigLIP: what is seen, how well it looks, whether it fits its text, which of some concepts it is.

    frames ── Layout ── image tower ── to length 1 ──> "N D" ─┬─ mean over the clip ──> Embedding
                                                              ├─ layers, 768 to 1 ────> Aesthetic
    text ──── tokenizer ── text tower ── to length 1 ──> "D" ─┼─ cosine ──────────────> Similarity
                                                              └─ cosine x scale, softmax over classes ──> Concepts

The networks are those of `transformers`. Weights are a folder in its layout, or ``hub:OWNER/NAME``: for CLIP
openai/clip-vit-large-patch14 (MIT), which the published filters use and the aesthetic heads need; for SigLIP
google/siglip-base-patch16-224 (Apache-2.0) and its like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.core.folders import ENDINGS
from mutoscope.core.weights import load_into
from mutoscope.encoders.pretrained import load_config, load_network, load_tokenizer, needs_transformers
from mutoscope.scorers.judge import (
    Column,
    Place,
    Row,
    Seen,
    Seer,
    batches,
    bring,
    bring_file,
    per_clip,
    pictures,
)
from mutoscope.scorers.pixels import Frame, Layout

FOLDER = "CLIP or SigLIP"
REMEMBERED = 4096  # frames whose vectors are kept, for several judges look at the same ones
UNREAD = r".*position_ids$"  # numbers 0, 1, 2 ..., which older files hold


class Towers:
    """Both towers of a model, frozen; vectors come out with length 1.

    Args:
        network: `CLIPModel` or `SiglipModel` of `transformers`.
        layout: of the frames that it takes.
        tokenizer: of its texts.
        place: where it computes.
    """

    def __init__(self, network: nn.Module, layout: Layout, tokenizer: Any, place: Place) -> None:
        self.network: Any = network.to(place.device)
        self.layout, self.tokenizer, self.place = layout, tokenizer, place
        self._known: dict[Any, Float32[np.ndarray, " D"]] = {}  # in the order in which they came

    @classmethod
    def load(cls, source: str, place: Place) -> "Towers":
        """Read a folder.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: the folder does not hold what it should, or another kind of model.
        """
        with needs_transformers(FOLDER):
            from transformers import CLIPModel, SiglipModel
        folder = bring(source, FOLDER)
        config = load_config(folder)
        kind = {"clip": CLIPModel, "siglip": SiglipModel}.get(config.model_type)
        if kind is None:
            raise WeightsError(f"{source} holds a {config.model_type}, not CLIP or SigLIP. Name another folder.")
        layout, tokenizer = Layout.of(folder), load_tokenizer(folder)
        return cls(load_network(kind, folder, config, unread=UNREAD, dtype=place.torch_dtype), layout, tokenizer, place)

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before they are compared."""
        return float(self.network.logit_scale.float().exp())

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        config = self.network.config
        return config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size

    @torch.inference_mode()
    def images(self, frames: Sequence[Frame]) -> Float32[np.ndarray, "N D"]:
        """Return the vectors of frames; one that was asked for not long ago is not looked at again."""
        names = [(frame.shape, sha256(frame.tobytes()).digest()) for frame in frames]
        new = {name: frame for name, frame in zip(names, frames, strict=True) if name not in self._known}
        for part in batches(list(new), self.place.batch):
            pixels = self.layout(new[name] for name in part).to(self.place.device, self.place.torch_dtype)
            self._known |= zip(part, _unit(self.network.get_image_features(pixel_values=pixels)), strict=True)
        found = np.stack([self._known[name] for name in names])
        for name in list(self._known)[:-REMEMBERED]:  # the oldest
            del self._known[name]
        return found

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """Return the vectors of texts; of a long one only its beginning counts, for CLIP its first 75 tokens."""
        length = self.network.config.text_config.max_position_embeddings
        vectors = []
        for part in batches(texts, self.place.batch):
            # Padded to the end and no mask: so SigLIP was trained; CLIP reads what is before the end of the text alone.
            rows = self.tokenizer(
                list(part), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            vectors.append(_unit(self.network.get_text_features(input_ids=rows["input_ids"].to(self.place.device))))
        return np.concatenate(vectors)


@lru_cache(maxsize=2)
def towers(weights: str, place: Place) -> Towers:
    """Return the towers of a folder, which all judges on it share."""
    return Towers.load(weights, place)


def _unit(found: Any) -> Float32[np.ndarray, "N D"]:
    vectors = found.pooler_output.float()
    return (vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy()


def _check(weights: str) -> None:
    with needs_transformers(FOLDER):
        import transformers  # noqa: F401
    bring(weights, FOLDER)


# ---- judges ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedding:
    """What a clip shows, as a vector: the mean of those of its frames, brought to length 1.

    Duplicates and clusters are found by it. HunyuanVideo and Step-Video-T2V use unpublished models of whole clips.

    Args:
        weights: folder of CLIP or SigLIP, or ``hub:OWNER/NAME``.
        frames: of a clip that are looked at; of one, that in the middle.
    """

    weights: str
    frames: int = 1

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("embedding", "", "neither", "what is seen, as a vector of length 1", "vector"),)

    def check(self) -> None:
        _check(self.weights)

    def open(self, place: Place) -> Seer:
        model = towers(self.weights, place)

        def see(seen: Sequence[Seen]) -> list[Row]:
            means = np.stack([some.mean(axis=0) for some in per_clip(seen, model.images(pictures(seen)))])
            return [{"embedding": mean / np.linalg.norm(mean)} for mean in means]

        return see


class Layers(nn.Module):
    """The published layers from a vector of CLIP ViT-L/14 to a mark: christophschuhmann/improved-aesthetic-predictor.

    Nothing bends between them: it was trained so. The numbers at the front are those of its state dict, where dropout
    stands in between.
    """

    SIZES = (1024, 128, 64, 16, 1)
    NAMES = ("0", "2", "4", "6", "7")

    def __init__(self, dim: int) -> None:
        super().__init__()
        ends = pairwise((dim, *self.SIZES))
        self.layers = nn.ModuleDict({name: nn.Linear(*pair) for name, pair in zip(self.NAMES, ends, strict=True)})

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N 1"]:
        for layer in self.layers.values():
            x = layer(x)
        return x


@dataclass(frozen=True)
class Aesthetic:
    """How a clip looks to people, about 1 to 10: the mean over frames of LAION's predictor on CLIP ViT-L/14.

    ContentV, Step-Video-T2V and Stable Video Diffusion filter by it, the last by first, middle and last frames.

    Args:
        weights: folder of the CLIP that the head was trained on, or ``hub:OWNER/NAME``.
        head: file of its layers, with the names ``layers.0.weight`` ... of improved-aesthetic-predictor, or ``weight``
            and ``bias`` of the single layer before it (LAION-AI/aesthetic-predictor).
        frames: of a clip that are looked at.
    """

    weights: str
    head: str
    frames: int = 3

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("aesthetic", "of 10", "higher", "how it looks to people, by LAION's predictor"),)

    def check(self) -> None:
        _check(self.weights)
        bring_file(self.head, ENDINGS, "head")

    def open(self, place: Place) -> Seer:
        model = towers(self.weights, place)
        head = _head(self.head, model.width).to(place.device)

        @torch.inference_mode()
        def see(seen: Sequence[Seen]) -> list[Row]:
            vectors = torch.from_numpy(model.images(pictures(seen))).to(place.device)
            marks = head(vectors)[:, 0].cpu().numpy()
            return [{"aesthetic": float(some.mean())} for some in per_clip(seen, marks)]

        return see


def _head(source: str, dim: int) -> nn.Module:
    """Read the layers, which stay in float32."""
    file = open_checkpoint(bring_file(source, ENDINGS, "head"))
    head = nn.Linear(dim, 1) if file.headers.keys() == {"weight", "bias"} else Layers(dim)
    load_into(head, {name: file.read(name) for name in file.headers}, source=source)
    return head.eval().requires_grad_(False)


@dataclass(frozen=True)
class Similarity:
    """How well a clip fits its text: the mean cosine over frames. A clip without text has none.

    Stable Video Diffusion takes first, middle and last frames, Step-Video-T2V eight, with a Chinese CLIP.

    Args:
        weights: folder of CLIP or SigLIP, or ``hub:OWNER/NAME``.
        frames: of a clip that are looked at.
    """

    weights: str
    frames: int = 3

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("text_similarity", "cosine", "higher", "how well the pictures fit the text"),)

    def check(self) -> None:
        _check(self.weights)

    def open(self, place: Place) -> Seer:
        model = towers(self.weights, place)

        def see(seen: Sequence[Seen]) -> list[Row]:
            told = [one for one in seen if one.text]
            if not told:
                return [{} for _ in seen]
            texts = model.texts([one.text for one in told])
            found = (
                {"text_similarity": float((some @ text).mean())}
                for some, text in zip(per_clip(told, model.images(pictures(told))), texts, strict=True)
            )
            return [next(found) if one.text else {} for one in seen]

        return see


@dataclass(frozen=True)
class Concepts:
    """Which of some classes a clip shows, so that it can be seen what a data set is made of.

    The vector of the clip, as of `Embedding`, is compared with that of each class (Radford et al. 2021, section 3.1).

    Args:
        weights: folder of CLIP or SigLIP, or ``hub:OWNER/NAME``.
        classes: what there is to choose from, two or more.
        prompt: the sentence that a class is put into.
        name: of the column; ``NAME_share`` has how sure it is.
        frames: of a clip that are looked at.
    """

    weights: str
    classes: tuple[str, ...]
    prompt: str = "a photo of {}."
    name: str = "concept"
    frames: int = 3

    def __post_init__(self) -> None:
        if len(set(self.classes)) < max(2, len(self.classes)) or "{}" not in self.prompt:
            raise RecipeError(
                f"Concepts chooses among {len(self.classes)} classes with the prompt {self.prompt!r}. Give two or more "
                "different classes, and a prompt with {} where the class is to stand."
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(self.name, "", "neither", "the class that fits best", "name"),
            Column(f"{self.name}_share", "of 1", "neither", "its share after a softmax over all classes"),
        )

    def check(self) -> None:
        _check(self.weights)

    def open(self, place: Place) -> Seer:
        model = towers(self.weights, place)
        classes = model.texts([self.prompt.replace("{}", one) for one in self.classes])

        def see(seen: Sequence[Seen]) -> list[Row]:
            means = np.stack([some.mean(axis=0) for some in per_clip(seen, model.images(pictures(seen)))])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            shares = torch.from_numpy(model.scale * means @ classes.T).softmax(dim=1).numpy()
            return [{self.name: self.classes[row.argmax()], f"{self.name}_share": float(row.max())} for row in shares]

        return see
