"""ContentV's transformer and its sampling loop."""

from typing import Any

import torch
from torch import Tensor

from mutoscope.core import weights
from mutoscope.diffusion.guidance import Guidance, guide
from mutoscope.diffusion.samplers import Step, euler
from mutoscope.diffusion.schedule import grid
from mutoscope.encoders.base import TextTokens
from mutoscope.models.contentv import Condition, Config, ContentV, condition, keys
from tests.parity.runner import Case


def config_of(theirs: dict[str, Any], text_dim: int, pooled_dim: int) -> Config:
    """Translate the arguments of the published class; the two widths of text are not among them."""
    assert theirs["in_channels"] == theirs["out_channels"], "a velocity is like its latents"
    return Config(
        depth=theirs["num_layers"],
        num_heads=theirs["num_attention_heads"],
        head_dim=theirs["attention_head_dim"],
        patch_size=(1, theirs["patch_size"], theirs["patch_size"]),
        latent_channels=theirs["in_channels"],
        text_dim=text_dim,
        pooled_dim=pooled_dim,
    )


def network_of(case: Case, theirs: dict[str, Any], text: Condition) -> ContentV:
    config = config_of(theirs, text.tokens.shape[2], text.pooled.shape[1])
    network = ContentV(config).eval()
    tensors = weights.to_ours(case.weights, keys(config)["diffusers"], source=str(case.folder))
    weights.load_into(network, tensors, source=str(case.folder))
    return network


def text_of(tokens: Tensor, pooled: Tensor) -> Condition:
    return condition(TextTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), pooled), [])


def transformer(case: Case) -> dict[str, Tensor]:
    text = text_of(case.input("encoder_hidden_states"), case.input("pooled_projections"))
    x = case.input("hidden_states")
    t = case.input("timestep") / 1000
    return {"out.sample": network_of(case, case.config, text)(x, t, text)}


def pipeline(case: Case) -> dict[str, Tensor]:
    text = text_of(case.input("prompt_embeds"), case.input("pooled_prompt_embeds"))
    null = text_of(case.input("negative_prompt_embeds"), case.input("negative_pooled_prompt_embeds"))
    network = network_of(case, case.config["transformer"], text)
    guidance = Guidance(text_scale=case.config["guidance_scale"])
    branches = Condition.cat([text if branch.text else null for branch in guidance.weights(has_image=False)])
    states: list[Tensor] = []

    def keep(step: Step) -> None:
        states.append(step.x)

    times = grid(case.config["num_inference_steps"], case.config["scheduler"]["shift"])
    field = guide(lambda x, t: network(x, t, branches), guidance)
    latents = euler(field, case.input("latents"), times, keep)
    return {
        "out.latents": latents,
        "out.trajectory": torch.stack([*states[1:], latents]),
        "mid.sigmas": times,
        "mid.timesteps": 1000 * times[:-1],
    }


COMPONENTS = {("ContentV", "transformer"): transformer, ("ContentV", "pipeline"): pipeline}
