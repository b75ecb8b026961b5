"""HunyuanVideo: the network, its 8-bit weights, the grid of times, and whole walks from noise to pixels."""

from typing import Any

import torch
from torch import Tensor

from mutoscope.autoencoders import hunyuan as autoencoders
from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core import weights
from mutoscope.diffusion.guidance import Guidance, guide
from mutoscope.diffusion.samplers import Step, euler
from mutoscope.diffusion.schedule import grid
from mutoscope.encoders.base import TextTokens
from mutoscope.models.hunyuan import Condition, Config, Hunyuan, condition, keys
from mutoscope.placement.quantize import (
    E4M3,
    LARGEST,
    Float8Linear,
    dequantize,
    quantize_linears,
    quantized_keys,
    round_to_e4m3,
)
from tests.parity import hunyuan_vae
from tests.parity.runner import Case

SERVED = {  # the published class has these options; in every released network they are as here
    "qkv_bias": True,
    "qk_norm": True,
    "qk_norm_type": "rms",
    "text_projection": "single_refiner",
    "use_attention_mask": True,
}


def config_of(published: dict[str, Any], text_dim: int, pooled_dim: int, theta: float = 256) -> Config:
    """Translate the arguments of the published class; the two widths of text are not always among them."""
    for option, value in SERVED.items():
        if published.get(option, value) != value:
            raise NotImplementedError(f"{option}={published[option]}: no released network has it")
    dim, heads = published["hidden_size"], published["heads_num"]
    return Config(
        depth=published["mm_double_blocks_depth"],
        single_depth=published["mm_single_blocks_depth"],
        dim=dim,
        num_heads=heads,
        rope_dims=tuple(published["rope_dim_list"]),
        mlp_ratio=float(published.get("mlp_width_ratio", 4.0)),
        rope_theta=float(theta),
        patch_size=tuple(published["patch_size"]),
        latent_channels=published["in_channels"],
        text_dim=text_dim,
        pooled_dim=pooled_dim,
        embeds_guidance=published.get("guidance_embed", False),
    )


def build(config: Config, official: dict[str, Tensor]) -> Hunyuan:
    network = Hunyuan(config)
    weights.load_into(network, weights.to_ours(official, keys(config)["official"], source="golden"), source="golden")
    return network


def thousandths(values: Tensor) -> Tensor:
    """Return the numbers whose products with 1000 are `values`, to the last bit where there are any."""
    near = (values.double() / 1000).float()
    either = torch.stack([near, near.nextafter(near + 1), near.nextafter(near - 1)])
    return either.gather(0, (either * 1000 - values).abs().argmin(0, keepdim=True))[0]


def condition_of(case: Case, names: tuple[str, str, str], guidance: Tensor | None = None) -> Condition:
    tokens, mask, pooled = (case.input(name) for name in names)
    made = condition(TextTokens(tokens, mask.bool(), pooled), [])
    return made if guidance is None else Condition(made.tokens, made.lengths, made.pooled, guidance)


def text_of(case: Case) -> Condition:
    """Return the condition of a case that calls the network once."""
    guidance = thousandths(case.input("guidance")) if "in.guidance" in case.io else None
    return condition_of(case, ("text_states", "text_mask", "text_states_2"), guidance)


def prompt_of(case: Case, prefix: str) -> Condition:
    """Return the condition of a case that walks: of the prompt, or of the negative one."""
    names = (f"{prefix}prompt_embeds", f"{prefix}prompt_mask", f"{prefix}prompt_embeds_2")
    told = float(case.config.get("embedded_guidance_scale") or 0)
    return condition_of(case, names, torch.full((len(case.input(names[0])),), told))


def theta_of(call: dict[str, Any]) -> float:
    return call.get("rope_theta") or call.get("rope", {}).get("theta", 256)


def transformer(case: Case) -> dict[str, Tensor]:
    published = case.config
    config = config_of(published, published["text_states_dim"], published["text_states_dim_2"], theta_of(case.call))
    x, t, cond = case.input("x"), thousandths(case.input("t")), text_of(case)
    found = {"out.x": build(config, case.weights)(x, t, cond)}
    if case.diffusers_weights is not None:
        network = Hunyuan(config)
        named = weights.to_ours(case.diffusers_weights, keys(config)["diffusers"], source="golden")
        weights.load_into(network, named, source="golden")
        torch.testing.assert_close(network(x, t, cond), found["out.x"])
    return found


def scheduler(case: Case) -> dict[str, Tensor]:
    """Walk with our grid and sampler; the published walk the other way is that of 1 - t."""
    found, a = {}, case.input("a")
    for name, settings in case.config.items():
        times = grid(settings["num_inference_steps"], settings["shift"])
        if not settings["reverse"]:
            times = 1 - times
        found |= {f"out.{name}_sigmas": times, f"out.{name}_timesteps": 1000 * times[:-1]}

        def field(x: Tensor, t: Tensor) -> Tensor:
            return (x * a).tanh() + 0.5 * t[:, None, None] - 0.3 * x

        found[f"out.{name}_trajectory"] = walk(field, case.input("x0"), times)
    return found


def walk(field: Any, x: Tensor, times: Tensor) -> Tensor:
    """Return the state after every step."""
    states: list[Tensor] = []

    def see(step: Step) -> None:
        if step.index:
            states.append(step.x)

    last = euler(field, x, times, see)
    return torch.stack([*states, last])


def pipeline(case: Case) -> dict[str, Tensor]:
    published = case.config
    config = config_of(published["transformer"], published["text_states_dim"], published["text_states_dim_2"])
    network = build(config, case.weights_of("transformer.") or case.weights)
    guidance = Guidance(float(published["guidance_scale"]))
    branches = guidance.weights(has_image=False)
    cond = Condition.cat([prompt_of(case, "" if branch.text else "negative_") for branch in branches])
    field = guide(lambda x, t: network(x, t, cond), guidance)
    times = grid(published["num_inference_steps"], published["shift"])
    found = {"out.trajectory": walk(field, case.input("latents"), times)}
    if "vae" in published:
        found["out.video"] = pixels(case, found["out.trajectory"][-1])
    return found


def pixels(case: Case, latents: Tensor) -> Tensor:
    """Decode with the autoencoder of a case, as values between 0 and 1."""
    autoencoder = HunyuanAutoencoder(hunyuan_vae.config_of(case.config["vae"]))
    names = autoencoders.keys(autoencoder.config)["official"]
    tensors = weights.to_ours(case.weights_of("vae."), names, source="golden")
    weights.load_into(autoencoder, tensors, source="golden")
    return (autoencoder.decode(latents) + 1) / 2


def fp8(case: Case) -> dict[str, Tensor]:
    published = case.config
    config = config_of(published["transformer"], published["text_states_dim"], published["text_states_dim_2"])
    network, names = build(config, case.weights), keys(config)["official"]
    replaced = quantize_linears(network, ("doubles.", "singles."))
    state = weights.to_theirs(network.state_dict(), quantized_keys(names, replaced))
    layers = [key.theirs[0].removesuffix(".weight") for key in names if key.ours.removesuffix(".weight") in replaced]
    found = {"out.maxval": torch.tensor([LARGEST])}
    for layer in layers:
        found[f"out.q.{layer}.weight"] = state[f"{layer}.weight"]
        found[f"out.scale.{layer}"] = state[layer].reshape(1)
    cond = condition_of(case, ("text_states", "text_mask", "text_states_2"))
    found["out.x_fp8_float32"] = network(case.input("x"), thousandths(case.input("t")), cond)

    bits = round_to_e4m3(case.input("values"))
    found |= {"out.values_fp8_bits": bits, "out.values_qdq": bits.view(E4M3).float()}

    chosen, x = published["linear"], case.input("linear_input")
    (ours,) = (key.ours.removesuffix(".weight") for key in names if key.theirs == (f"{chosen}.weight",))
    layer = network.get_submodule(ours)
    assert isinstance(layer, Float8Linear)
    found["out.linear_fp8_float32"] = found["out.linear_on_the_fly_float32"] = layer(x)
    found["out.dequant_bf16"] = dequantize(layer.bits, layer.scale, torch.bfloat16)
    found["out.linear_fp8_bf16"] = layer.to(torch.bfloat16)(x.to(torch.bfloat16))
    return found


COMPONENTS = {
    ("HunyuanVideo", "transformer"): transformer,
    ("HunyuanVideo", "scheduler"): scheduler,
    ("HunyuanVideo", "pipeline"): pipeline,
    ("HunyuanVideo", "fp8"): fp8,
}
