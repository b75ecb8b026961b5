import json
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.autoencoders import hunyuan
from mutoscope.autoencoders.base import Autoencoder, Patch
from mutoscope.autoencoders.hunyuan import PRESETS, HunyuanAutoencoder, HunyuanConfig, Tiling, keys
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError

TINY = PRESETS["tiny"]
FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys" / "hunyuan_vae_884_16c.json"


@pytest.fixture
def autoencoder() -> HunyuanAutoencoder:
    return made(TINY).requires_grad_(False)


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways of large clips for small ones."""
    monkeypatch.setattr(hunyuan, "PART_ELEMENTS", 1)
    monkeypatch.setattr(hunyuan, "PAYS_ABOVE", 0)


def made(config: HunyuanConfig) -> HunyuanAutoencoder:
    """Return a network in which every tensor matters."""
    torch.manual_seed(0)
    network = HunyuanAutoencoder(config).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            torch.nn.init.normal_(layer.weight, 1, 0.2)
            torch.nn.init.normal_(layer.bias, 0, 0.2)
    return network


def random(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def plain_convolution(x: Tensor, conv: torch.nn.Conv3d, stride: int = 1) -> Tensor:
    return F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate"), conv.weight, conv.bias, stride)


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


@pytest.mark.parametrize(("time", "space"), list(product((1, 2), repeat=2)))
@pytest.mark.usefixtures("in_small_parts")
def test_upsampling_in_phases_is_repetition_and_a_convolution(time: int, space: int) -> None:
    torch.manual_seed(0)
    layer, x = hunyuan.Upsample(3, time, space), random(2, 3, 4, 3, 5)
    repeated = torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(time, 2)], dim=2)
    repeated = repeated.repeat_interleave(space, 3).repeat_interleave(space, 4)
    with torch.no_grad():
        made = hunyuan.joined(layer(hunyuan.Parts(last(x).split([1, 2, 1], dim=2))))
        torch.testing.assert_close(made, plain_convolution(repeated, layer.conv), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("time", "space"), list(product((1, 2), repeat=2)))
def test_a_stride_over_parts_is_a_stride_over_the_clip(time: int, space: int) -> None:
    torch.manual_seed(0)
    layer, x = hunyuan.Downsample(3, time, space), random(2, 3, 7, 4, 6)
    padded = F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate")
    with torch.no_grad():
        made = hunyuan.joined(layer(hunyuan.Parts(last(x).split([1, 2, 4], dim=2))))
        whole = F.conv3d(padded, layer.conv.weight, layer.conv.bias, (time, space, space))
        torch.testing.assert_close(made, whole, rtol=1e-5, atol=1e-5)


def test_statistics_of_parts_are_those_of_the_clip() -> None:
    torch.manual_seed(0)
    norm, x = torch.nn.GroupNorm(2, 6, eps=1e-6), 3 + random(2, 6, 7, 4, 5) * torch.arange(1, 8).view(1, 1, -1, 1, 1)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    with torch.no_grad():
        parts = hunyuan.Parts(last(x).split([1, 4, 2], dim=2))
        activation = hunyuan.Activation(norm, parts)
        made = torch.cat([activation(part) for part in parts], dim=2)
        torch.testing.assert_close(made, F.silu(norm(x)), rtol=1e-5, atol=1e-5)


def test_a_small_convolution_is_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunyuan, "PAYS_ABOVE", 0)
    torch.manual_seed(0)
    for stride, frames in ((1, 3), (1, 6), (2, 7)):
        conv, window = torch.nn.Conv3d(3, 5, 3), last(random(1, 3, frames, 6, 8))
        made = hunyuan.convolve(window, conv, (stride, 2, 2))
        torch.testing.assert_close(made, F.conv3d(window, conv.weight, conv.bias, (stride, 2, 2)), rtol=1e-5, atol=1e-5)


def test_a_token_reads_its_own_frame_and_those_before() -> None:
    torch.manual_seed(0)
    layer, x = hunyuan.Attention(8, 2), random(2, 8, 3, 2, 4)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    frame = torch.arange(3).repeat_interleave(8)
    q, k, v = (linear(tokens)[:, None] for linear in (layer.q, layer.k, layer.v))
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=frame[:, None] >= frame)
    wanted = x + layer.out(read[:, 0]).transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("in_small_parts")
def test_streamed_groups_are_the_whole_in_order(autoencoder: HunyuanAutoencoder) -> None:
    latents = random(2, 4, 3, 2, 3)
    groups = list(autoencoder.decode_stream(latents))
    assert len(groups) > 1
    assert torch.equal(torch.cat(groups, dim=2), autoencoder.decode(latents))


def test_streaming_leaves_gradients_as_they_were(autoencoder: HunyuanAutoencoder) -> None:
    for _ in autoencoder.decode_stream(random(1, 4, 1, 2, 2)):
        assert torch.is_grad_enabled()


def test_a_batch_of_two_is_two_batches_of_one(autoencoder: HunyuanAutoencoder) -> None:
    latents, video = random(2, 4, 2, 2, 3), random(2, 3, 5, 16, 16)
    for way, x in ((autoencoder.pixels, latents), (autoencoder.moments, video)):
        # a CPU without AVX-512 rounds a batch of two otherwise: 1.4e-5 of values of about 1
        torch.testing.assert_close(way(x), torch.cat([way(one) for one in x.split(1)]), rtol=1e-4, atol=5e-5)


def test_the_input_is_left_as_it_was(autoencoder: HunyuanAutoencoder) -> None:
    latents, video = random(1, 4, 2, 2, 3), random(1, 3, 5, 16, 16)
    before = latents.clone(), video.clone()
    autoencoder.decode(latents)
    autoencoder.encode(video)
    assert torch.equal(latents, before[0]) and torch.equal(video, before[1])


def test_latents_are_scaled_means_and_pixels_are_clipped(autoencoder: HunyuanAutoencoder) -> None:
    video, latents = random(1, 3, 5, 16, 16), random(1, 4, 2, 2, 3)
    mean = autoencoder.moments(video)[:, :4]
    torch.testing.assert_close(autoencoder.encode(video), 0.476986 * mean)
    wanted = autoencoder.pixels(latents / 0.476986).clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(latents), wanted)
    assert wanted.abs().max() == 1


def test_gradient_reaches_every_parameter() -> None:
    network = made(TINY)
    loss = (
        network.moments(random(1, 3, 5, 16, 16)).square().sum() + network.pixels(random(1, 4, 2, 2, 2)).square().sum()
    )
    loss.backward()
    dead = [name for name, own in network.named_parameters() if own.grad is None or not own.grad.abs().sum()]
    assert dead == []


def test_bfloat16_is_near_float32(autoencoder: HunyuanAutoencoder) -> None:
    latents = random(1, 4, 2, 2, 3)
    wide = autoencoder.pixels(latents)
    narrow = autoencoder.bfloat16().pixels(latents.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert (narrow - wide).norm() < 0.05 * wide.norm()


def test_a_clip_no_larger_than_a_tile_is_decoded_exactly(autoencoder: HunyuanAutoencoder) -> None:
    latents = random(1, 4, 3, 2, 2)
    exact = autoencoder.decode(latents)
    autoencoder.tiling = Tiling(side=16, latent_side=2, frames=12, latent_frames=3)
    assert torch.equal(autoencoder.decode(latents), exact)


def test_decoding_in_tiles_is_what_the_tiled_autoencoder_does(autoencoder: HunyuanAutoencoder) -> None:
    latents, tiling = random(1, 4, 5, 6, 5), Tiling(side=32, latent_side=4, frames=16, latent_frames=4)
    exact = autoencoder.decode(latents)
    autoencoder.tiling = tiling
    wanted, groups = autoencoder.decode(latents), list(autoencoder.decode_tiled(latents))
    assert len(groups) > 1
    assert torch.equal(torch.cat(groups, dim=2), wanted)
    assert wanted.shape == exact.shape
    assert not torch.allclose(wanted, exact, atol=1e-2)
    autoencoder.tiling = None
    torch.testing.assert_close(torch.cat(list(autoencoder.decode_tiled(latents)), dim=2), exact)  # one published tile


def test_decoding_in_tiles_asks_for_the_largest_first_and_for_all(autoencoder: HunyuanAutoencoder) -> None:
    autoencoder.tiling = Tiling(side=32, latent_side=4, frames=16, latent_frames=4)
    seen, plain = [], made(TINY).requires_grad_(False)

    def run(tile: Tensor) -> Tensor:
        seen.append(tile.numel())
        return plain.pixels(tile)

    latents = random(1, 4, 5, 6, 5)
    told = torch.cat(list(autoencoder.decode_tiled(latents, run)), dim=2)
    assert torch.equal(told, torch.cat(list(autoencoder.decode_tiled(latents)), dim=2))
    assert seen[0] == max(seen)
    assert len(seen) > 2


def test_tiles_of_a_map_of_single_pixels_give_the_map() -> None:
    """Where tiles agree, blending changes nothing, and every frame comes once."""
    x = random(1, 2, 21, 17, 30)
    made = hunyuan.tiled(x, lambda part: 3 * part, (8, 8), (8, 8), 0.25)
    torch.testing.assert_close(torch.cat(list(made), dim=2), 3 * x)


@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_latent_shape_is_the_shape_of_the_latents(autoencoder: HunyuanAutoencoder, num_frames: int) -> None:
    latents = autoencoder.encode(random(1, 3, num_frames, 16, 24))
    assert latents.shape[1:] == autoencoder.latent_shape(num_frames, 16, 24)
    assert autoencoder.decode(latents).shape == (1, 3, num_frames, 16, 24)


@pytest.mark.parametrize(
    ("size", "patch", "said"),
    [
        ((120, 720, 1280), Patch(), "needs 4k . 1 frames.* Use num_frames=121 height=720 width=1280"),
        ((129, 724, 1275), Patch(space=2), "multiples of 16. Use num_frames=129 height=720 width=1280"),
        ((15, 64, 64), Patch(time=2), "needs 8k . 5 frames.* Use num_frames=13 height=64 width=64"),
        ((0, 1, 64), Patch(), "Use num_frames=1 height=8 width=64"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_does(
    autoencoder: HunyuanAutoencoder, size: tuple[int, int, int], patch: Patch, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        autoencoder.latent_shape(*size, patch)
    assert "\n" not in str(caught.value)
    nearest = autoencoder.nearest_size(*size, patch)
    autoencoder.latent_shape(*nearest, patch)
    assert autoencoder.nearest_size(*nearest, patch) == nearest


def test_encoding_refuses_a_size_that_does_not_fit(autoencoder: HunyuanAutoencoder) -> None:
    with pytest.raises(RequestError, match="num_frames=5 height=16 width=16"):
        autoencoder.encode(random(1, 3, 4, 16, 16))


def test_latents_are_told_apart_by_the_encoder_alone(autoencoder: HunyuanAutoencoder) -> None:
    assert isinstance(autoencoder, Autoencoder)
    before = autoencoder.latents_id()
    autoencoder.decoder.head.weight.add_(1)
    assert autoencoder.latents_id() == before
    autoencoder.encoder.head.weight.add_(1)
    assert autoencoder.latents_id() != before


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the names of the published weights, ../shared/golden, are not here")
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_the_published_size_has_the_published_names_and_shapes(layout: str) -> None:
    config = PRESETS["884-16c"]
    with torch.device("meta"):
        network = HunyuanAutoencoder(config)
    theirs = weights.to_theirs(network.state_dict(), keys(config)[layout])
    published = json.loads(FULL_SIZE.read_text(encoding="utf-8"))
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published["keys"]
    assert sum(own.numel() for own in network.parameters()) == published["n_params"] == 246_478_803


@pytest.mark.parametrize("config", [TINY, HunyuanConfig(4, (4, 8), 2, 2, 2, 2, has_attention=False)])
def test_names_are_one_to_one(config: HunyuanConfig) -> None:
    own = set(HunyuanAutoencoder(config).state_dict())
    for table in keys(config).values():
        assert {key.ours for key in table} == own
        assert len({name for key in table for name in key.theirs}) == len(own)


def test_saved_and_published_weights_load_to_the_same_bits(tmp_path: Path, autoencoder: HunyuanAutoencoder) -> None:
    metadata = {"config": json.dumps(configs.to_json(TINY))}
    state, video = autoencoder.state_dict(), random(1, 3, 5, 16, 16)
    theirs = weights.to_theirs(state, keys(TINY)["official"])
    weights.save(tmp_path / "ours.safetensors", state, metadata)
    weights.save(tmp_path / "theirs.safetensors", {f"vae.{name}": value for name, value in theirs.items()}, metadata)
    for name in ("ours", "theirs"):
        loaded = HunyuanAutoencoder.load(tmp_path / f"{name}.safetensors")
        assert loaded.config == TINY and not any(own.requires_grad for own in loaded.parameters())
        assert torch.equal(loaded.encode(video), autoencoder.encode(video))


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, autoencoder: HunyuanAutoencoder) -> None:
    state = autoencoder.state_dict()
    del state["decoder.head.bias"]
    weights.save(tmp_path / "x.safetensors", state, {"config": json.dumps(configs.to_json(TINY))})
    with pytest.raises(WeightsError, match=r"1 missing: decoder\.head\.bias"):
        HunyuanAutoencoder.load(tmp_path / "x.safetensors")


def test_factors_that_do_not_fit_the_levels_are_refused() -> None:
    with pytest.raises(WeightsError, match="space_factor=8"):
        HunyuanAutoencoder(HunyuanConfig(dims=(8, 8), groups=2))


@pytest.mark.slow
@pytest.mark.parametrize("latents", [(1, 4, 1, 3, 2), (1, 4, 6, 4, 5)])
@pytest.mark.parametrize("config", [TINY, HunyuanConfig(4, (8, 24, 8, 16), 2, 2)])
@pytest.mark.usefixtures("in_small_parts")
def test_outputs_are_those_of_diffusers(config: HunyuanConfig, latents: tuple[int, ...]) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = made(config).requires_grad_(False)
    theirs = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=config.latent_channels,
        block_out_channels=config.dims,
        layers_per_block=config.depth,
        norm_num_groups=config.groups,
    ).eval()
    theirs.load_state_dict(weights.to_theirs(ours.state_dict(), keys(config)["diffusers"]))
    theirs.use_framewise_decoding = theirs.use_framewise_encoding = False
    z = random(*latents)
    with torch.no_grad():
        video = theirs.decode(z).sample
        torch.testing.assert_close(ours.pixels(z), video, rtol=1e-4, atol=2e-5)
        moments = theirs.encode(video).latent_dist.parameters
        torch.testing.assert_close(ours.moments(video), moments, rtol=1e-4, atol=2e-5)
