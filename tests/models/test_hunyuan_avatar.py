"""The laws of HunyuanVideo-Avatar that its own file promises, beyond the contract of every family."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.core import weights
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.encoders.base import TextTokens
from mutoscope.models.hunyuan_avatar import PRESETS, Condition, HunyuanAvatar, Listener, condition, example, keys
from mutoscope.nn.rope import axes_rope

FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys"
TINY = PRESETS["tiny"]
SIZE = (3, 4, 6)  # latent frames, rows, columns


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(count: int = 2) -> Condition:
    mask = torch.ones(count, 5, dtype=torch.bool)
    text = TextTokens(draw(count, 5, TINY.text_dim, seed=1), mask, draw(count, TINY.pooled_dim, seed=2))
    return example(TINY, text, [], SIZE)


def build() -> HunyuanAvatar:
    """Build a network with no weight at its initial value."""
    network = HunyuanAvatar(TINY)
    for index, parameter in enumerate(network.parameters()):
        parameter.data += draw(*parameter.shape, seed=index) * 0.5 / math.sqrt(parameter.shape[-1])
    return network


X = draw(2, TINY.latent_channels, *SIZE)
T = torch.tensor([0.3, 0.9])


def test_the_reference_is_a_frame_before_the_first() -> None:
    layout = build().layout(SIZE, cond())
    assert layout.grid == (4, 2, 3)
    speeds = HunyuanAvatar(TINY).base._speeds(3, torch.device("cpu"))
    places = [torch.tensor([-1.0]), torch.arange(2.0), torch.arange(3.0)]
    assert torch.equal(layout.rope[:6], axes_rope(places, speeds))
    assert torch.equal(layout.rope[-5:, :, 0], torch.ones(5, 8)) and not layout.rope[-5:, :, 1].any()  # text


def test_where_there_is_no_face_there_is_no_sound() -> None:
    network, c = build(), cond()
    loud = replace(c, audio=c.audio + 1)
    assert (network(X, T, loud) - network(X, T, c)).abs().max() > 1e-3
    c, loud = (replace(one, face=torch.zeros_like(one.face)) for one in (c, loud))
    assert torch.equal(network(X, T, loud), network(X, T, c))


def test_a_new_network_does_not_listen_yet() -> None:
    network, c = HunyuanAvatar(TINY), cond()
    for parameter in network.base.head.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(network(X, T, replace(c, audio=c.audio + 1)), network(X, T, c))


def test_each_latent_frame_hears_its_own_four_video_frames_and_the_first_hears_one() -> None:
    network, audio = build().audio, cond().audio
    tokens = network(audio)
    assert tokens.shape == (2, 3, 16, TINY.base.dim)
    assert torch.equal(tokens[:, 0, :4], tokens[:, 0, 12:])
    for frame, latent_frame in [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)]:
        changed = audio.clone()
        changed[:, frame] += 1
        differs = (network(changed) != tokens).flatten(2).any(dim=2)
        assert differs[0].nonzero().flatten().tolist() == [latent_frame]


def test_a_frame_listens_to_its_own_audio_alone() -> None:
    listener = Listener(8, 4)
    torch.nn.init.normal_(listener.out.weight)
    video, audio = draw(1, 6, 8), draw(1, 3, 16, 8, seed=1)
    heard = listener(video, audio)
    audio[:, 1] += draw(16, 8, seed=2)
    assert (listener(video, audio) != heard).any(dim=2)[0].tolist() == [False, False, True, True, False, False]


def test_the_tip_alone_follows_the_trunk_of_another_time() -> None:
    network, c = build(), cond()
    layout = network.layout(SIZE, c)
    trunk = network.trunk(X, T, c, network.vec(T, c), layout)
    assert torch.equal(network.tip(trunk, network.vec(T, c), layout), network(X, T, c))
    assert (network.tip(trunk, network.vec(T / 2, c), layout) - network(X, T / 2, c)).abs().max() > 1e-3


def test_everything_it_is_told_matters() -> None:
    network, c = build(), cond()
    velocity = network(X, T, c)
    for name in ("reference", "audio", "face", "pose", "expression", "fps"):
        changed = replace(c, **{name: getattr(c, name) * 0.5})
        assert (network(X, T, changed) - velocity).abs().max() > 1e-4, name


def test_without_picture_or_voice_it_is_refused() -> None:
    text = TextTokens(draw(1, 2, 12), torch.ones(1, 2, dtype=torch.bool), draw(1, 8))
    with pytest.raises(RequestError, match="needs a picture of somebody"):
        condition(text, [])
    with pytest.raises(RequestError, match="needs a voice"):
        condition(text, [], reference=draw(1, 4, *SIZE))


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match="Use 0 to 1"):
        replace(TINY, listeners=(1, 2))
    with pytest.raises(RecipeError, match="base is told a scale of guidance"):
        replace(TINY, base=replace(TINY.base, embeds_guidance=True))


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the published names, ../shared/golden/fullsize_keys, are not here")
def test_full_size_weights_have_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = HunyuanAvatar(PRESETS["base"]).state_dict()
    theirs = weights.to_theirs(state, keys(PRESETS["base"])["official"])
    published = json.loads((FULL_SIZE / "hunyuan_avatar_dit.json").read_text(encoding="utf-8"))["keys"]
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published
