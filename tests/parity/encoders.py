"""Text encoders of ContentV and HunyuanVideo, and the picture of HunyuanVideo-I2V. Token ids are inputs."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mutoscope.data.buckets import Bucket, buckets, choose, fit, plan
from mutoscope.encoders.clip import ClipText, clip_pixels
from mutoscope.encoders.llm import Llama, Llava
from mutoscope.encoders.t5 import T5, ClipT5
from tests.parity.runner import Case


def write(folder: Path, config: dict[str, Any], model_type: str, tensors: dict[str, Tensor]) -> Path:
    """Write what the hub would hold, so that a case is loaded in the way that released weights are."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def contentv_prompt(case: Case) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as temporary:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        types = ("clip_text_model", "clip_text_model", "t5")
        folders = [
            write(Path(temporary) / name, case.config[name], kind, case.weights_of(f"{name}."))
            for name, kind in zip(names, types, strict=True)
        ]
        clips = [ClipText.load(folder, None, projects=True) for folder in folders[:2]]
        t5 = T5.load(folders[2], None)
    length, dim = case.config["max_sequence_length"], case.config["joint_attention_dim"]
    full, without = ClipT5(*clips, t5=t5, length=length, dim=dim), ClipT5(*clips, t5=None, length=length, dim=dim)

    def ids(which: str) -> tuple[Tensor, Tensor, Tensor]:
        first, second, third = (case.input(f"ids_{encoder}_{which}") for encoder in (1, 2, 3))
        return first, second, third

    positive, negative = full(*ids("pos")), full(*ids("neg"))
    skipped = full(*ids("pos"), clip_skip=case.config["clip_skip_variant"])
    copies = case.config["num_images_per_prompt_variant"]
    empty = full(*(row[:1].expand(len(positive.tokens), -1) for row in ids("empty")))
    return {
        "out.prompt_embeds": positive.tokens,
        "out.negative_prompt_embeds": negative.tokens,
        "out.pooled_prompt_embeds": positive.pooled,
        "out.negative_pooled_prompt_embeds": negative.pooled,
        "out.skip_prompt_embeds": skipped.tokens.repeat_interleave(copies, 0),
        "out.skip_negative_prompt_embeds": empty.tokens.repeat_interleave(copies, 0),
        "out.skip_pooled_prompt_embeds": skipped.pooled.repeat_interleave(copies, 0),
        "out.skip_negative_pooled_prompt_embeds": empty.pooled.repeat_interleave(copies, 0),
        "out.no_t5_prompt_embeds": without(*ids("pos")[:2], None).tokens,
        "out.no_t5_negative_prompt_embeds": without(*ids("neg")[:2], None).tokens,
    }


def hunyuan_text(case: Case) -> dict[str, Tensor]:
    skip = case.config["hidden_state_skip_layer"]
    with tempfile.TemporaryDirectory() as temporary:
        config, tensors = case.config["text_encoder"], case.weights_of("text_encoder.")
        folder = write(Path(temporary) / "llama", config, "llama", tensors)
        llama = Llama.load(folder, None, skipped=skip, normed=case.config["apply_final_norm"] or not skip)
        normed = Llama.load(folder, None, skipped=skip, normed=True)
        whole = Llama.load(folder, None, skipped=0, normed=True)
        config, tensors = case.config["text_encoder_2"], case.weights_of("text_encoder_2.")
        clip = ClipText.load(write(Path(temporary) / "clip", config, "clip_text_model", tensors), None, projects=False)

    def run(model: Llama, which: str, crop: int) -> tuple[Tensor, Tensor]:
        ids, mask = case.input(f"ids_{which}"), case.input(f"mask_{which}")
        return model(ids, mask.bool())[:, crop:], mask[:, crop:]

    crops, released = case.config["crop_start_of_this_tokenizer"], case.config["crop_start_released"]
    outputs: dict[str, Tensor] = {}
    for name, which, crop in (
        ("video", "video", crops["video"]),
        ("image", "image", crops["image"]),
        ("as_is", "as_is", released["video"]),
    ):
        outputs[f"out.{name}_hidden"], outputs[f"out.{name}_mask"] = run(llama, which, crop)
    outputs["out.video_hidden_apply_final_norm"] = run(normed, "video", crops["video"])[0]
    outputs["out.video_hidden_no_skip"] = run(whole, "video", crops["video"])[0]
    outputs["out.clip_pooled"] = clip(case.input("ids_clip"), case.input("mask_clip")).pooled
    outputs["out.clip_mask"] = case.input("mask_clip")
    return outputs


def hunyuan_i2v_text(case: Case) -> dict[str, Tensor]:
    config = {
        name: case.config[name]
        for name in (
            "vision_config",
            "text_config",
            "image_token_index",
            "pad_token_id",
            "vision_feature_layer",
            "vision_feature_select_strategy",
            "projector_hidden_act",
        )
    }
    config["vision_config"] = config["vision_config"] | {"model_type": "clip_vision_model"}
    config["text_config"] = config["text_config"] | {"model_type": "llama"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary) / "llava", config, "llava", case.weights_of("text_encoder."))
        llava = Llava.load(
            folder,
            None,
            skipped=case.config["hidden_state_skip_layer"],
            empty_line=case.config["double_return_token_id"],
        )
    picture = case.input("image").numpy()
    side = case.config["vision_config"]["image_size"]

    def run(which: str, stride: int, opening: int, shown: np.ndarray) -> tuple[Tensor, Tensor]:
        pixels = clip_pixels(shown, side).expand(len(case.input(f"ids_{which}")), -1, -1, -1)
        ids, mask = case.input(f"ids_{which}"), case.input(f"mask_{which}").bool()
        return llava.read(ids, mask, pixels, opening=opening, stride=stride if 0 < stride < 6 else 1)

    outputs: dict[str, Tensor] = {"mid.pixel_values": clip_pixels(picture, side)[None]}
    for name in (name for name in case.facts["tolerance"]["per_output"] if name.endswith("_hidden")):
        what = name.removeprefix("out.").removesuffix("_hidden")
        which, _, stride = what.partition("_stride")
        opening, shown = case.config["crop_start"], picture
        if what == "as_is":
            opening = case.config["released"]["crop_start"]
        if what == "negative_black":
            which, shown = "neg", np.zeros_like(picture)
        outputs[name], outputs[f"out.{what}_mask"] = run(which, int(stride or 4), opening, shown)
    return outputs


def image_preparation(case: Case) -> dict[str, Tensor]:
    patch, max_ratio = case.config["patch"], case.config["max_ratio"]
    outputs: dict[str, Tensor] = {}
    for name, base in case.config["base"].items():
        sizes = buckets(base, patch, max_ratio)
        rows = []
        for width, height in case.input("sizes_wh").tolist():
            bucket = choose(sizes, height, width)
            fitted = plan(height, width, bucket)
            rows.append([*bucket, *fitted[:2], *fitted[:2], *fitted[2:], *bucket])
        outputs[f"out.choice_{name}"] = torch.tensor(rows)
        outputs[f"mid.buckets_{name}"] = torch.tensor(sizes)
    picture = case.input("image").numpy()

    def prepared(base: int) -> tuple[Bucket, Tensor]:
        bucket = choose(buckets(base, patch, max_ratio), *picture.shape[:2])
        return bucket, torch.from_numpy(fit(picture, bucket)).movedim(-1, 0) / 127.5 - 1

    for base in case.config["small_bases"]:
        bucket, pixels = prepared(base)
        outputs[f"out.small_base{base}_size"] = torch.tensor(bucket)
        outputs[f"out.small_base{base}_pixels"] = pixels[None, :, None]
    for name, base in case.config["base"].items():
        _, pixels = prepared(base)
        outputs[f"out.pixels_{name}_strided"] = pixels[:, ::16, ::16]
        outputs[f"out.pixels_{name}_mean_std"] = torch.stack([pixels.mean((1, 2)), pixels.std((1, 2))])
    return outputs


COMPONENTS = {
    ("ContentV", "prompt_embedding"): contentv_prompt,
    ("HunyuanVideo", "text_encoder"): hunyuan_text,
    ("HunyuanVideo-I2V", "text_encoder"): hunyuan_i2v_text,
    ("HunyuanVideo-I2V", "image_preparation"): image_preparation,
}
