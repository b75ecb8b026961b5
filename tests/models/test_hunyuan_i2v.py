"""The laws of HunyuanVideo-I2V that its own file promises, beyond the contract of every family."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.core import weights
from mutoscope.core.errors import RequestError
from mutoscope.encoders import llm
from mutoscope.encoders.base import TextTokens
from mutoscope.models import hunyuan
from mutoscope.models.hunyuan_i2v import (
    FAMILY,
    NEGATIVE,
    PRESETS,
    Condition,
    Config,
    HunyuanI2V,
    condition,
    example,
    keys,
    reader,
    start,
    tell,
)

FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys"
REPLACE, CONCAT = PRESETS["tiny"], PRESETS["tiny-concat"]
CHANNELS = REPLACE.latent_channels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(lengths: Sequence[int], seed: int = 1) -> TextTokens:
    """Make prompts of these lengths, padded with what must not be read."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = draw(*mask.shape, REPLACE.text_dim, seed=seed).masked_fill(~mask[..., None], 1e4)
    return TextTokens(tokens, mask, draw(len(lengths), REPLACE.pooled_dim, seed=seed + 1))


def cond(lengths: Sequence[int] = (5, 5), guidance: float = 6.0, image: Tensor | None = None) -> Condition:
    return condition(text(lengths), [], guidance=guidance, image=image)


def build(config: Config = REPLACE) -> HunyuanI2V:
    """Build a network with no weight at its initial value."""
    network = HunyuanI2V(config)
    for index, parameter in enumerate(network.parameters()):
        parameter.data += draw(*parameter.shape, seed=index) * 0.5 / math.sqrt(parameter.shape[-1])
    return network


X = draw(2, CHANNELS, 3, 4, 6)
T = torch.tensor([0.3, 0.9])
IMAGE = draw(2, CHANNELS, 1, 4, 6, seed=5)


def test_a_network_is_zero_at_first() -> None:
    assert not HunyuanI2V(REPLACE)(X, T, cond()).any()
    assert not HunyuanI2V(CONCAT)(X, T, cond(image=IMAGE)).any()


def test_the_first_frame_is_told_neither_guidance_nor_time() -> None:
    network = build(REPLACE)
    (clean, rest), (clean2, rest2) = (
        network.vec(t, cond(guidance=scale)).unbind(1) for t, scale in [(T, 1.0), (T / 2, 6.0)]
    )
    assert torch.equal(clean, clean2)
    assert (rest - rest2).abs().max() > 0.1
    at_zero = HunyuanI2V(Config(replace(REPLACE.base, embeds_guidance=False), "replace"))
    at_zero.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("base.guidance.")})
    assert torch.equal(clean, at_zero.vec(torch.zeros(2), cond())[:, -1])


def test_without_a_picture_of_its_own_a_frame_is_modulated_as_in_the_parent() -> None:
    network = build(REPLACE)
    layout = network.layout(X.shape[2:], cond())
    assert layout.first == 2 * 3
    plain = layout._replace(first=0)
    vec = network.vec(T, cond())
    trunk = network.trunk(X, T, cond(), vec[:, -1:], plain)
    assert torch.equal(network.tip(trunk, vec[:, -1:], plain), network.base(X, T, cond().text))


def test_with_concat_the_picture_and_the_frames_it_fills_are_channels() -> None:
    network, seen = build(CONCAT), []
    network.base.patch.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(X, T, cond(image=IMAGE))
    noisy, clean, mask = seen[0].split([4, 4, 1], dim=1)
    assert torch.equal(noisy, X)
    assert torch.equal(clean[:, :, :1], IMAGE) and not clean[:, :, 1:].any()
    assert mask[:, :, 0].eq(1).all() and not mask[:, :, 1:].any()


def test_a_picture_is_asked_for_by_the_networks_that_take_one_so_and_by_no_other() -> None:
    with pytest.raises(RequestError, match="needs the latents of a first frame"):
        build(CONCAT)(X, T, cond())
    with pytest.raises(RequestError, match="no channels for an image"):
        build(REPLACE)(X, T, cond(image=IMAGE))
    with pytest.raises(RequestError, match="Some samples of a batch have an image"):
        Condition.cat([cond(), cond(image=IMAGE)])


def test_prompts_of_any_length_in_one_batch_are_as_alone() -> None:
    lengths = (5, 2, 5)
    x, t, image = draw(3, CHANNELS, 2, 4, 4), torch.tensor([0.1, 0.4, 0.7]), draw(3, CHANNELS, 1, 4, 4, seed=5)
    network, batch = build(CONCAT), cond(lengths, image=image)
    together = network(x, t, batch)
    alone = [network(x[i : i + 1], t[i : i + 1], batch[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_sampling_starts_from_the_picture_and_steadily_from_a_thousandth_of_it_everywhere() -> None:
    image = torch.full((2, CHANNELS, 1, 4, 6), 3.0)
    steady = start(REPLACE, X, image, FAMILY.own_sampling["steady"].image_share)
    assert torch.equal(steady[:, :, :1], image)
    torch.testing.assert_close(steady[:, :, 1:], 0.999 * X[:, :, 1:] + 0.003)
    dynamic = start(REPLACE, X, image, FAMILY.sampling.image_share)
    assert torch.equal(dynamic, torch.cat([image, X[:, :, 1:]], dim=2))
    assert torch.equal(start(CONCAT, X, image), X)


def test_a_condition_is_told_the_scale_and_with_concat_the_picture() -> None:
    for config, image in ((REPLACE, None), (CONCAT, IMAGE)):
        told = tell(config, cond(), 3.5, IMAGE)
        assert told.text.guidance.tolist() == [3.5, 3.5]
        assert told.image is image


def test_the_negative_prompt_is_the_published_one() -> None:
    digest = hashlib.sha256(NEGATIVE.encode()).hexdigest()
    assert len(NEGATIVE) == 82 and digest.startswith("48fba201") and digest.endswith("dce6e")


def test_encodings_for_the_two_ways_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known = tmp_path / "template.txt", llm.PUBLISHED["video_i2v"]
    path.write_text("<image> {}", encoding="utf-8")
    digest = hashlib.sha256(b"<image> {}").hexdigest()
    monkeypatch.setattr(llm, "PUBLISHED", {"video_i2v": known._replace(sha256=digest)})
    assert reader(REPLACE, path).settings == ("<image> {}", "stride 4")
    assert reader(CONCAT, path).settings == ("<image> {}", "stride 2")


def test_the_tip_alone_follows_the_trunk_of_another_time() -> None:
    network, c = build(), cond()
    layout = network.layout(X.shape[2:], c)
    trunk = network.trunk(X, T, c, network.vec(T, c), layout)
    assert torch.equal(network.tip(trunk, network.vec(T, c), layout), network(X, T, c))
    assert (network.tip(trunk, network.vec(T / 2, c), layout) - network(X, T / 2, c)).abs().max() > 1e-3


def test_every_preset_has_an_example_of_its_condition() -> None:
    for config in (REPLACE, CONCAT):
        assert build(config)(X, T, example(config, text((5, 5)), [], X.shape[2:])).isfinite().all()


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the published names, ../shared/golden/fullsize_keys, are not here")
@pytest.mark.parametrize(
    ("preset", "file"),
    [("replace", "hunyuan_dit_i2v_token_replace"), ("concat", "hunyuan_dit_i2v_latent_concat")],
)
def test_full_size_weights_have_the_published_names_and_shapes(preset: str, file: str) -> None:
    with torch.device("meta"):
        state = HunyuanI2V(PRESETS[preset]).state_dict()
    theirs = weights.to_theirs(state, keys(PRESETS[preset])["official"])
    published = json.loads((FULL_SIZE / f"{file}.json").read_text(encoding="utf-8"))["keys"]
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.parametrize(
    ("config", "kind"), [(REPLACE, "token_replace"), (CONCAT, "latent_concat")], ids=["replace", "concat"]
)
@pytest.mark.filterwarnings("ignore")
def test_diffusers_with_the_same_weights_gives_the_same_velocity(config: Config, kind: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    base = config.base
    theirs = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=config.in_channels,
        out_channels=config.latent_channels,
        num_attention_heads=base.num_heads,
        attention_head_dim=base.head_dim,
        num_layers=base.depth,
        num_single_layers=base.single_depth,
        num_refiner_layers=hunyuan.REFINER_BLOCKS,
        text_embed_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        rope_axes_dim=base.rope_dims,
        image_condition_type=kind,
        guidance_embeds=base.embeds_guidance,
    )
    network, names = build(config), keys(config)["diffusers"]
    theirs.load_state_dict(weights.to_theirs(network.state_dict(), names))
    back = weights.to_ours(dict(theirs.state_dict()), names, source="diffusers")
    assert [name for name, tensor in network.state_dict().items() if not torch.equal(back[name], tensor)] == []

    prompts = text((5, 3))
    made = condition(prompts, [], image=IMAGE if kind == "latent_concat" else None)
    with torch.no_grad():
        (velocity,) = theirs(
            hidden_states=network.shown(X, made),
            timestep=1000 * T,
            encoder_hidden_states=prompts.tokens.masked_fill(~prompts.mask[..., None], 0.0),
            encoder_attention_mask=prompts.mask.long(),
            pooled_projections=prompts.pooled,
            guidance=1000 * made.text.guidance,
            return_dict=False,
        )
        torch.testing.assert_close(network(X, T, made), velocity, atol=2e-5, rtol=2e-5)
