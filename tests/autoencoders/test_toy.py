from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.autoencoders.base import Patch
from mutoscope.autoencoders.toy import Normalise, ToyAutoencoder, ToyConfig
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.train.autoencoder import FIRST_HELD_OUT, psnr, world_clip

BUNDLED = Path(str(files("mutoscope"))) / "bundled" / "autoencoder_toy.safetensors"
SMALL = ToyConfig(dims=(16, 8), decoder_depths=(1, 1))


@pytest.fixture
def autoencoder() -> ToyAutoencoder:
    torch.manual_seed(0)
    network = ToyAutoencoder(SMALL)
    for name, parameter in network.named_parameters():  # layers that start at zero would hide every mistake behind them
        if name.endswith("conv2.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    network.eval().encoder.normalise.fit(network.encoder(frames()))
    return network.requires_grad_(False)


def frames() -> Tensor:
    """Make pictures with coarse and fine parts."""
    coarse = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    fine = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear") + 0.1 * fine


def video(num_frames: int, height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, num_frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_clip_is_encoded_as_its_frames(autoencoder: ToyAutoencoder) -> None:
    clip = video(5)
    frames = [autoencoder.encode(frame) for frame in clip.split(1, dim=2)]
    torch.testing.assert_close(autoencoder.encode(clip), torch.cat(frames, dim=2))


def test_a_clip_is_decoded_as_its_frames(autoencoder: ToyAutoencoder) -> None:
    latents = autoencoder.encode(video(5))
    frames = [autoencoder.decode(frame) for frame in latents.split(1, dim=2)]
    torch.testing.assert_close(autoencoder.decode(latents), torch.cat(frames, dim=2))


def test_streamed_groups_are_the_whole_in_order(autoencoder: ToyAutoencoder) -> None:
    latents = torch.randn(1, 8, 5, 32, 32, generator=torch.Generator().manual_seed(2))  # 256 x 256: four frames a group
    groups = list(autoencoder.decode_stream(latents))
    assert len(groups) > 1
    each = [autoencoder.decode(frame) for frame in latents.split(1, dim=2)]
    torch.testing.assert_close(torch.cat(groups, dim=2), torch.cat(each, dim=2))


def test_decoded_pixels_stay_in_range(autoencoder: ToyAutoencoder) -> None:
    assert autoencoder.decode(100 * torch.randn(1, 8, 2, 4, 4)).abs().max() <= 1


def test_every_channel_of_the_latents_has_mean_zero_and_variance_one(autoencoder: ToyAutoencoder) -> None:
    latents = autoencoder.encode(frames()[:, :, None]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var(1), torch.ones(8), rtol=1e-3, atol=0)


def test_normalising_by_the_batch_is_normalising_by_data_that_is_the_batch(autoencoder: ToyAutoencoder) -> None:
    fitted, fresh = autoencoder.encoder.normalise, Normalise(8)
    x = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(5)) * 3 + 1
    by_batch = fresh.train()(x)
    fresh.fit(x)
    torch.testing.assert_close(fresh(x), by_batch)
    torch.testing.assert_close(fresh(x[:1]), by_batch[:1])  # from now on the same, whatever the batch and the mode
    torch.testing.assert_close(fresh.eval()(x[:1]), by_batch[:1])
    assert not torch.allclose(fitted(x), by_batch)


def test_the_decoder_leaves_the_name_of_the_latents_alone(autoencoder: ToyAutoencoder) -> None:
    name = autoencoder.latents_id()
    autoencoder.decoder.stem.weight += 1
    assert autoencoder.latents_id() == name
    autoencoder.encoder.stem.weight += 1
    assert autoencoder.latents_id() != name


def test_latent_shape_is_the_shape_of_the_latents(autoencoder: ToyAutoencoder) -> None:
    assert autoencoder.encode(video(3, batch=1)).shape[1:] == autoencoder.latent_shape(3, 32, 48)


@pytest.mark.parametrize(
    ("size", "patch", "said"),
    [
        ((16, 60, 64), Patch(), "Use num_frames=16 height=64 width=64"),
        ((15, 64, 72), Patch(time=2, space=2), "Use num_frames=16 height=64 width=80"),
        ((0, 64, 64), Patch(), "Use num_frames=1 height=64 width=64"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_does(
    autoencoder: ToyAutoencoder, size: tuple[int, int, int], patch: Patch, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        autoencoder.latent_shape(*size, patch)
    assert "\n" not in str(caught.value)
    nearest = autoencoder.nearest_size(*size, patch)
    autoencoder.latent_shape(*nearest, patch)
    assert autoencoder.nearest_size(*nearest, patch) == nearest


def test_encoding_refuses_a_size_that_does_not_fit(autoencoder: ToyAutoencoder) -> None:
    with pytest.raises(RequestError, match="height=32 width=48"):
        autoencoder.encode(video(1, height=30, width=47))


def test_a_file_without_config_is_refused(tmp_path: Path, autoencoder: ToyAutoencoder) -> None:
    path = tmp_path / "bare.safetensors"
    weights.save(path, autoencoder.state_dict(), {})
    with pytest.raises(WeightsError, match="no config"):
        ToyAutoencoder.load(path)


@pytest.mark.skipif(not BUNDLED.exists(), reason="the bundled autoencoder has not been trained yet")
def test_the_bundled_weights_give_back_held_out_clips_with_normalised_latents() -> None:
    autoencoder = ToyAutoencoder.load(BUNDLED)
    clips = torch.cat([world_clip(FIRST_HELD_OUT + 50_000 + n, "held_out") for n in range(8)])
    latents = autoencoder.encode(clips)
    assert psnr(autoencoder.decode(latents), clips).mean() >= 30
    assert latents.mean().abs() < 0.25 and 0.7 < latents.std() < 1.3
