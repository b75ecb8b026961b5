"""HunyuanVideo-I2V: the network, both ways a picture comes in, and whole walks from noise to latents."""

from typing import Any, Literal

import torch
from torch import Tensor

from mutoscope.core import weights
from mutoscope.diffusion.guidance import Given, Guidance, guide
from mutoscope.diffusion.schedule import grid
from mutoscope.models.hunyuan_i2v import FAMILY, Condition, Config, HunyuanI2V, keys, start
from tests.parity import hunyuan
from tests.parity.runner import Case

IMAGE: dict[str, Literal["replace", "concat"]] = {"token_replace": "replace", "latent_concat": "concat"}


def config_of(published: dict[str, Any], text_dim: int, pooled_dim: int, kind: str, theta: float = 256) -> Config:
    channels = published["in_channels"]  # with concat, those of noise and picture, and the mask
    base = {**published, "in_channels": (channels - 1) // 2 if IMAGE[kind] == "concat" else channels}
    return Config(hunyuan.config_of(base, text_dim, pooled_dim, theta), IMAGE[kind])


def build(config: Config, tensors: dict[str, Tensor], layout: str = "official") -> HunyuanI2V:
    network = HunyuanI2V(config)
    weights.load_into(network, weights.to_ours(tensors, keys(config)[layout], source="golden"), source="golden")
    return network


def transformer(case: Case) -> dict[str, Tensor]:
    published, kind, image = case.config, case.config["i2v_condition_type"], case.input("img_latents")
    widths = published["text_states_dim"], published["text_states_dim_2"]
    config = config_of(published, *widths, kind, hunyuan.theta_of(case.call))
    x, t, text = case.input("latents"), hunyuan.thousandths(case.input("t")), hunyuan.text_of(case)
    if config.image == "replace":
        x, cond = torch.cat([image, x[:, :, 1:]], dim=2), Condition(text)
    else:
        cond = Condition(text, image)
    found = {"out.x": build(config, case.weights)(x, t, cond)}
    if case.diffusers_weights is not None:
        theirs = build(config, case.diffusers_weights, "diffusers")
        torch.testing.assert_close(theirs(x, t, cond), found["out.x"])
    return found


def pipeline(case: Case) -> dict[str, Tensor]:
    """Walk as `pipeline.System` does, by what the family says of its configs."""
    published, image = case.config, case.input("img_latents")
    widths = published["text_states_dim"], published["text_states_dim_2"]
    config = config_of(published["transformer"], *widths, published["i2v_condition_type"])
    network = build(config, case.weights_of("transformer.") or case.weights)
    sampling = FAMILY.own_sampling["steady"] if published["i2v_stability"] else FAMILY.sampling
    noise = start(config, case.input("noise"), image, sampling.image_share)
    given = None
    if FAMILY.holds_given(config):
        frames = torch.zeros(len(noise), noise.shape[2], dtype=torch.bool)
        frames[:, 0] = True
        given = Given(noise, frames)
    guidance = Guidance(float(published["guidance_scale"]), image_scale=1.0)
    shown = image if config.image == "concat" else None

    def prompt(prefix: str) -> Condition:
        return Condition(hunyuan.prompt_of(case, prefix), shown)

    branches = guidance.weights(has_image=given is not None)
    cond = Condition.cat([prompt("" if branch.text else "negative_") for branch in branches])
    field = guide(lambda x, t: network(x, t, cond), guidance, given)
    times = grid(published["num_inference_steps"], published["shift"])
    found = {"out.trajectory": hunyuan.walk(field, noise, times)}
    if "vae" in published:
        video = hunyuan.pixels(case, found["out.trajectory"][-1])
        found["out.video"] = video[:, :, FAMILY.dropped(config) :]
    return found


COMPONENTS = {
    ("HunyuanVideo-I2V", "transformer"): transformer,
    ("HunyuanVideo-I2V", "pipeline"): pipeline,
}
