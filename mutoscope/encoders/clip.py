"""CLIP: the text towers that published models condition on, and the pictures that its image towers take.

    "a red kite" -> ids B 77   what is longer is cut, as published: another encoder reads the whole prompt
      embed, blocks            causal; `tokens` are the states before the last block, without the last norm
      norm, <end> token        pooled; projected where the tower has a projection

CLIP-L is openai/clip-vit-large-patch14 (MIT), CLIP-G laion/CLIP-ViT-bigG-14-laion2B-39B-b160k (MIT). The network itself
is that of `transformers`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from mutoscope.encoders.pretrained import load_config, load_network, load_tokenizer, needs_transformers

LENGTH = 77  # tokens, <start> and <end> among them
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pictures in [0, 1], red, green, blue; as CLIP was trained
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipStates(NamedTuple):
    """What a tower makes of prompts."""

    tokens: Float[Tensor, "B S D"]
    pooled: Float[Tensor, "B P"]


class ClipText(nn.Module):
    """A frozen text tower.

    Args:
        network: `CLIPTextModel` or `CLIPTextModelWithProjection` of `transformers`.
        tokenizer: its tokenizer; None to encode numbers only.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        self.network: Any = network
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls, folder: Path, tokenizer: Path | None, *, projects: bool, dtype: torch.dtype | None = None
    ) -> "ClipText":
        """Read a tower from the folder of a text tower, or of a whole CLIP.

        Args:
            folder: with config and weights.
            tokenizer: folder of its tokenizer; None to encode numbers only.
            projects: whether the pooled state goes through the tower's projection.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: a folder does not hold what it should.
        """
        with needs_transformers("CLIP"):
            from transformers import CLIPTextModel, CLIPTextModelWithProjection
        words = load_tokenizer(tokenizer) if tokenizer is not None else None
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        config = load_config(folder)
        config = getattr(config, "text_config", config)  # of the text tower alone, where the folder is a whole CLIP
        unread = r"vision_model\.|visual_projection\.|logit_scale$|.*position_ids$" + (
            "" if projects else r"|text_proj"
        )
        network = load_network(kind, folder, config, unread=unread, dtype=dtype)
        return cls(network, words)

    @property
    def device(self) -> torch.device:
        """Where the tower lives."""
        return next(self.network.parameters()).device

    def forward(self, ids: Int[Tensor, "B S"], mask: Int[Tensor, "B S"] | None = None, skip: int = 1) -> ClipStates:
        """Encode numbers of tokens.

        Args:
            ids: padded to 77.
            mask: 1 where a token is real, to hide padding; None shows all, as the causal order allows.
            skip: blocks to leave out at the top for `tokens`; `pooled` leaves out none.
        """
        states = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        pooled = states.text_embeds if "text_embeds" in states else states.pooler_output
        return ClipStates(states.hidden_states[-1 - skip], pooled)

    def ids(self, texts: list[str]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
        """Return numbers of tokens, padded or cut to 77, and 1 where they are real."""
        rows = self.tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        return rows["input_ids"].to(self.device), rows["attention_mask"].to(self.device)


def clip_pixels(picture: UInt8[np.ndarray, "H W 3"], side: int = 336) -> Float[Tensor, "3 side side"]:
    """Prepare a picture for an image tower: the short edge resized to `side`, the middle cut out, normalised."""
    height, width = picture.shape[:2]
    size = (side, side * height // width) if width <= height else (side * width // height, side)
    resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = np.asarray(resized)[top : top + side, left : left + side].astype(np.float32) / np.float32(255)
    pixels = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
