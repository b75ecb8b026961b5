"""Folders of tiny towers and classifiers with random weights, and clips of random frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from safetensors.torch import load_file

from mutoscope.scorers.judge import Seen
from tests.encoders.hub_folders import vision_config, write_network, write_tokenizer, write_whole_clip

CLIP_PIXELS = {
    "do_resize": True,
    "size": 28,  # as in the file of openai/clip-vit-large-patch14
    "do_center_crop": True,
    "crop_size": 28,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "feature_extractor_type": "CLIPFeatureExtractor",
}
SQUARE_PIXELS = {
    "do_resize": True,
    "size": {"height": 28, "width": 28},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}


def write_clip(folder: Path) -> Any:
    """Write a whole CLIP, whose vectors have 10 numbers, and return it with the weights that were written."""
    network = write_whole_clip(folder)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    write_tokenizer(folder, "<start>", "<end>")
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_PIXELS))
    return network


def write_siglip(folder: Path) -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**sizes, "vocab_size": 40, "max_position_embeddings": 12, "pad_token_id": 0},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
    )
    network = transformers.SiglipModel(config).eval()
    write_network(folder, network)
    write_tokenizer(folder, after="<end>")
    (folder / "preprocessor_config.json").write_text(json.dumps(SQUARE_PIXELS))
    return network


def write_classifier(folder: Path, **more: Any) -> Any:
    config = transformers.ViTConfig(
        **{name: getattr(vision_config(), name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")},
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        id2label={0: "normal", 1: "nsfw", 2: "drawing"},
        label2id={"normal": 0, "nsfw": 1, "drawing": 2},
        **more,
    )
    network = transformers.ViTForImageClassification(config).eval()
    write_network(folder, network)
    (folder / "preprocessor_config.json").write_text(json.dumps(SQUARE_PIXELS))
    return network


def noise(count: int, seed: int = 0, height: int = 40, width: int = 52) -> np.ndarray:
    """Frames in which everything differs."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def clips(*counts: int, text: str = "a red kite") -> list[Seen]:
    return [Seen(noise(count, seed), text) for seed, count in enumerate(counts)]
