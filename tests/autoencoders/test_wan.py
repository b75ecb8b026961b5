import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.autoencoders import wan
from mutoscope.autoencoders.base import Autoencoder, Patch
from mutoscope.autoencoders.wan import MEAN, PRESETS, STD, WanAutoencoder, WanConfig, keys
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError

TINY = PRESETS["tiny"]
FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys"


@pytest.fixture
def autoencoder() -> WanAutoencoder:
    return made(TINY).requires_grad_(False)


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways of large clips for small ones."""
    monkeypatch.setattr(wan, "PART_ELEMENTS", 1)
    monkeypatch.setattr(wan, "PAYS_ABOVE", 0)


def made(config: WanConfig) -> WanAutoencoder:
    """Return a network in which every tensor matters."""
    torch.manual_seed(0)
    network = WanAutoencoder(config).eval()
    for layer in network.modules():
        if isinstance(layer, wan.Norm):
            torch.nn.init.normal_(layer.gamma, 1, 0.2)
    return network


def random(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("in_small_parts")
def test_a_clip_decoded_in_parts_is_the_clip_decoded_as_one_in_plain_operations() -> None:
    network, latents = made(TINY), random(2, 4, 4, 2, 3)
    plain = network.pixels(latents)
    assert plain.requires_grad
    torch.testing.assert_close(network.requires_grad_(False).pixels(latents), plain.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("in_small_parts")
def test_a_clip_encoded_in_parts_is_the_clip_encoded_as_one_in_plain_operations() -> None:
    network, video = made(TINY), random(2, 3, 13, 16, 24)
    plain = network.moments(video)
    assert plain.requires_grad
    torch.testing.assert_close(network.requires_grad_(False).moments(video), plain.detach(), rtol=1e-4, atol=1e-5)


def test_results_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch, autoencoder: WanAutoencoder) -> None:
    latents, video = random(1, 4, 5, 2, 3), random(1, 3, 17, 16, 16)
    whole = autoencoder.pixels(latents), autoencoder.moments(video)
    for elements in (1, 2000, 20000):
        monkeypatch.setattr(wan, "PART_ELEMENTS", elements)
        torch.testing.assert_close((autoencoder.pixels(latents), autoencoder.moments(video)), whole)


@pytest.mark.usefixtures("in_small_parts")
def test_upsampling_in_phases_is_repetition_and_a_convolution() -> None:
    torch.manual_seed(0)
    layer, x = wan.Upsample(6, time=False), random(2, 6, 3, 4, 5)
    frames = F.interpolate(x.transpose(1, 2).flatten(0, 1), scale_factor=2, mode="nearest-exact")
    wanted = F.conv2d(frames, layer.conv.weight, layer.conv.bias, padding=1).unflatten(0, (2, 3)).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, wan.Past()), wanted, rtol=1e-5, atol=1e-5)


def test_downsampling_pads_to_the_right_and_below() -> None:
    torch.manual_seed(0)
    layer, x = wan.Downsample(6, time=False), random(1, 6, 1, 4, 6)
    wanted = F.conv2d(F.pad(x[:, :, 0], (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x, wan.Past())[:, :, 0], wanted, rtol=1e-5, atol=1e-5)


def test_a_small_convolution_is_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "PAYS_ABOVE", 0)
    torch.manual_seed(0)
    for kernel, stride, frames in ((3, 1, 3), (3, 1, 6), (1, 2, 7)):
        conv, window = torch.nn.Conv3d(3, 5, (3, kernel, kernel)), random(1, 3, frames, 6, 8)
        made = wan.convolve_with(window, conv.weight, conv.bias, stride)
        wanted = F.conv3d(window, conv.weight, conv.bias, (stride, 1, 1), (0, kernel // 2, kernel // 2))
        torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


def test_a_norm_gives_every_pixel_the_length_of_its_scales_and_leaves_zero_at_zero() -> None:
    norm, x = wan.Norm(8), random(1, 8, 2, 3, 3)
    x[..., 0] = 0
    length = norm(x).norm(dim=1)
    assert not length[..., 0].any()
    torch.testing.assert_close(length[..., 1:], torch.full_like(length[..., 1:], 8**0.5))


@pytest.mark.usefixtures("in_small_parts")
def test_streamed_groups_are_the_whole_in_order(autoencoder: WanAutoencoder) -> None:
    latents = random(2, 4, 3, 2, 3)
    groups = list(autoencoder.decode_stream(latents))
    assert len(groups) > 1
    assert torch.equal(torch.cat(groups, dim=2), autoencoder.decode(latents))


def test_streaming_leaves_gradients_as_they_were(autoencoder: WanAutoencoder) -> None:
    for _ in autoencoder.decode_stream(random(1, 4, 2, 2, 2)):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("after", range(1, 5))
def test_what_comes_later_changes_nothing_before(autoencoder: WanAutoencoder, after: int) -> None:
    latents, video = random(1, 4, 5, 2, 3), random(1, 3, 17, 16, 16)
    pixels, moments = autoencoder.pixels(latents), autoencoder.moments(video)
    latents[:, :, after:] = 7
    video[:, :, 4 * after - 3 :] = 7
    frames = 4 * after - 3
    torch.testing.assert_close(autoencoder.pixels(latents)[:, :, :frames], pixels[:, :, :frames])
    torch.testing.assert_close(autoencoder.moments(video)[:, :, :after], moments[:, :, :after])
    assert not torch.allclose(autoencoder.pixels(latents)[:, :, frames], pixels[:, :, frames])


def test_what_is_remembered_does_not_grow_with_the_clip(
    monkeypatch: pytest.MonkeyPatch, autoencoder: WanAutoencoder
) -> None:
    class Spy(dict):
        made: list["Spy"] = []  # noqa: RUF012

        def __init__(self) -> None:
            self.made.append(self)

    monkeypatch.setattr(wan, "Past", Spy)
    for t in (3, 12):
        autoencoder.pixels(random(1, 4, t, 2, 3))
        autoencoder.moments(random(1, 3, 4 * t - 3, 16, 16))
    sizes = [sum(last.untyped_storage().nbytes() for last in past.values()) for past in Spy.made]
    assert sizes[:2] == sizes[2:]


def test_a_batch_of_two_is_two_batches_of_one(autoencoder: WanAutoencoder) -> None:
    latents, video = random(2, 4, 3, 2, 3), random(2, 3, 9, 16, 16)
    for way, x in ((autoencoder.pixels, latents), (autoencoder.moments, video)):
        torch.testing.assert_close(way(x), torch.cat([way(one) for one in x.split(1)]), rtol=1e-4, atol=1e-5)


def test_the_input_is_left_as_it_was(autoencoder: WanAutoencoder) -> None:
    latents, video = random(1, 4, 2, 2, 3), random(1, 3, 5, 16, 16)
    before = latents.clone(), video.clone()
    autoencoder.decode(latents)
    autoencoder.encode(video)
    assert torch.equal(latents, before[0]) and torch.equal(video, before[1])


def test_latents_are_normalised_means_and_pixels_are_clipped(autoencoder: WanAutoencoder) -> None:
    autoencoder.decoder.head.weight.mul_(9)
    video, latents = random(1, 3, 5, 16, 16), random(1, 4, 2, 2, 3)
    mean, std = (torch.tensor(values[:4]).view(-1, 1, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(autoencoder.encode(video) * std + mean, autoencoder.moments(video)[:, :4])
    wanted = autoencoder.pixels(latents * std + mean).clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(latents), wanted)
    assert wanted.abs().max() == 1


def test_gradient_reaches_every_parameter() -> None:
    network = made(TINY)
    loss = (
        network.moments(random(1, 3, 9, 16, 16)).square().sum() + network.pixels(random(1, 4, 3, 2, 2)).square().sum()
    )
    loss.backward()
    dead = [name for name, own in network.named_parameters() if own.grad is None or not own.grad.abs().sum()]
    assert dead == []


def test_bfloat16_is_near_float32(autoencoder: WanAutoencoder) -> None:
    latents = random(1, 4, 3, 2, 3)
    wide = autoencoder.pixels(latents)
    narrow = autoencoder.bfloat16().pixels(latents.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert (narrow - wide).norm() < 0.05 * wide.norm()


@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_latent_shape_is_the_shape_of_the_latents(autoencoder: WanAutoencoder, num_frames: int) -> None:
    latents = autoencoder.encode(random(1, 3, num_frames, 16, 24))
    assert latents.shape[1:] == autoencoder.latent_shape(num_frames, 16, 24)
    assert autoencoder.decode(latents).shape == (1, 3, num_frames, 16, 24)


@pytest.mark.parametrize(
    ("size", "patch", "said"),
    [
        ((124, 432, 768), Patch(), "needs 4k . 1 frames.* Use num_frames=125 height=432 width=768"),
        ((125, 440, 768), Patch(space=2), "multiples of 16. Use num_frames=125 height=448 width=768"),
        ((15, 64, 64), Patch(time=2), "needs 8k . 5 frames.* Use num_frames=13 height=64 width=64"),
        ((0, 1, 64), Patch(), "Use num_frames=1 height=8 width=64"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_does(
    autoencoder: WanAutoencoder, size: tuple[int, int, int], patch: Patch, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        autoencoder.latent_shape(*size, patch)
    assert "\n" not in str(caught.value)
    nearest = autoencoder.nearest_size(*size, patch)
    autoencoder.latent_shape(*nearest, patch)
    assert autoencoder.nearest_size(*nearest, patch) == nearest


def test_encoding_refuses_a_size_that_does_not_fit(autoencoder: WanAutoencoder) -> None:
    with pytest.raises(RequestError, match="num_frames=5 height=16 width=16"):
        autoencoder.encode(random(1, 3, 4, 16, 16))


def test_latents_are_told_apart_by_the_encoder_alone(autoencoder: WanAutoencoder) -> None:
    assert isinstance(autoencoder, Autoencoder)
    before = autoencoder.latents_id()
    autoencoder.decoder.head.weight.add_(1)
    assert autoencoder.latents_id() == before
    autoencoder.encoder.head.weight.add_(1)
    assert autoencoder.latents_id() != before


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the names of the published weights, ../shared/golden, are not here")
@pytest.mark.parametrize(
    ("layout", "file"), [("official", "wan21_vae.json"), ("diffusers", "wan21_vae_diffusers.json")]
)
def test_the_published_size_has_the_published_names_and_shapes(layout: str, file: str) -> None:
    config = PRESETS["2.1"]
    with torch.device("meta"):
        network = WanAutoencoder(config)
    theirs = weights.to_theirs(network.state_dict(), keys(config)[layout])
    published = json.loads((FULL_SIZE / file).read_text(encoding="utf-8"))
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published["keys"]
    assert sum(own.numel() for own in network.parameters()) == published["n_params"] == 126_892_531


@pytest.mark.parametrize("config", [TINY, WanConfig(4, (1, 3), 2, (True,), MEAN[:2], STD[:2])])
def test_names_are_one_to_one(config: WanConfig) -> None:
    own = set(WanAutoencoder(config).state_dict())
    for table in keys(config).values():
        assert {key.ours for key in table} == own
        assert len({name for key in table for name in key.theirs}) == len(own)


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_saved_and_published_weights_load_to_the_same_bits(
    tmp_path: Path, autoencoder: WanAutoencoder, layout: str
) -> None:
    metadata = {"config": json.dumps(configs.to_json(TINY))}
    state, video = autoencoder.state_dict(), random(1, 3, 5, 16, 16)
    weights.save(tmp_path / "ours.safetensors", state, metadata)
    weights.save(tmp_path / "theirs.safetensors", weights.to_theirs(state, keys(TINY)[layout]), metadata)
    for name in ("ours", "theirs"):
        loaded = WanAutoencoder.load(tmp_path / f"{name}.safetensors")
        assert loaded.config == TINY and not any(own.requires_grad for own in loaded.parameters())
        assert torch.equal(loaded.encode(video), autoencoder.encode(video))


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, autoencoder: WanAutoencoder) -> None:
    state = autoencoder.state_dict()
    del state["decoder.head.bias"]
    weights.save(tmp_path / "x.safetensors", state, {"config": json.dumps(configs.to_json(TINY))})
    with pytest.raises(WeightsError, match=r"1 missing: decoder\.head\.bias"):
        WanAutoencoder.load(tmp_path / "x.safetensors")


def test_a_config_that_does_not_fit_itself_is_refused() -> None:
    with pytest.raises(WeightsError, match="need 1 values of is_temporal"):
        WanAutoencoder(WanConfig(8, (1, 2), 1))


@pytest.mark.slow
@pytest.mark.parametrize("latents", [(1, 4, 1, 3, 2), (1, 4, 2, 4, 4), (1, 4, 7, 4, 5)])
@pytest.mark.parametrize("config", [TINY, WanConfig(12, (1, 1, 3, 2), 2, mean=MEAN[:4], std=STD[:4])])
@pytest.mark.usefixtures("in_small_parts")
def test_outputs_are_those_of_diffusers(config: WanConfig, latents: tuple[int, ...]) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = made(config).requires_grad_(False)
    theirs = diffusers.AutoencoderKLWan(
        base_dim=config.dim, z_dim=4, dim_mult=list(config.multipliers), num_res_blocks=config.depth
    ).eval()
    theirs.load_state_dict(weights.to_theirs(ours.state_dict(), keys(config)["diffusers"]))
    z = random(*latents)
    with torch.no_grad():
        video = theirs.decode(z).sample
        torch.testing.assert_close(ours.pixels(z).clamp(-1, 1), video, rtol=1e-4, atol=1e-5)
        moments = theirs.encode(video).latent_dist.parameters
        torch.testing.assert_close(ours.moments(video), moments, rtol=1e-4, atol=1e-5)
