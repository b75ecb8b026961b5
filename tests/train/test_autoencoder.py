from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core.errors import RecipeError
from mutoscope.train.autoencoder import AutoencoderObjective, Reconstruction, psnr, world_frames

MODEL = ToyConfig(dims=(16, 8), decoder_depths=(1, 1))
SMALL = AutoencoderObjective(model=MODEL, clips=24, frames_per_clip=2, large_clips=3, large_every=4)


@pytest.fixture(scope="module")
def objective() -> Reconstruction:
    torch.manual_seed(0)
    return SMALL.build(seed=3)


def test_more_frames_than_a_clip_has_are_refused() -> None:
    with pytest.raises(RecipeError, match="frames_per_clip=17 from 1 to 16"):
        AutoencoderObjective(frames_per_clip=17)


def test_worker_processes_render_the_same_frames() -> None:
    assert torch.equal(world_frames(range(3, 8), 2, 64, workers=2), world_frames(range(3, 8), 2, 64))


def test_there_may_be_no_large_frames() -> None:
    assert world_frames(range(5, 5), 2, 128).shape == (0, 3, 128, 128)


def test_psnr_of_a_known_error() -> None:
    wanted = torch.zeros(2, 3, 4, 4)
    made = wanted + torch.tensor([0.2, 0.02])[:, None, None, None]  # a tenth and a hundredth of the peak to peak 2
    torch.testing.assert_close(psnr(made, wanted), torch.tensor([20.0, 40.0]))


def test_a_batch_follows_from_its_samples_and_step_alone(objective: Reconstruction) -> None:
    first, again, alone = objective.batch([4, 9], 7), objective.batch([4, 9], 7), objective.batch([9], 7)
    torch.testing.assert_close(first.frames, again.frames, rtol=0, atol=0)
    torch.testing.assert_close(first.noise[1:], alone.noise, rtol=0, atol=0)
    torch.testing.assert_close(first.frames[1:], alone.frames, rtol=0, atol=0)
    assert not torch.equal(first.noise, objective.batch([4, 9], 8).noise)


def test_some_batches_are_a_quarter_as_many_larger_frames(objective: Reconstruction) -> None:
    usual, large = objective.batch(range(8), 3), objective.batch(range(8), 4)
    assert usual.frames.shape == (8, 3, 64, 64) and usual.noise.shape == (8, 8, 8, 8)
    assert large.frames.shape == (2, 3, 128, 128) and large.noise.shape == (2, 8, 16, 16)
    assert (usual.weight, large.weight) == (1, 4)  # a frame of four times the pixels counts for four


def test_noise_has_the_strength_asked_for_or_varies_up_to_it(objective: Reconstruction) -> None:
    steady = objective.batch(range(16), 1).noise.flatten(1).std(1)
    torch.testing.assert_close(steady, torch.full((16,), SMALL.noise), rtol=0.3, atol=0)
    varied = replace(SMALL, noise_varies=True).build(seed=3).batch(range(16), 1).noise.flatten(1).std(1)
    assert varied.min() < 0.3 * SMALL.noise and varied.max() < 1.3 * SMALL.noise


def test_every_weight_gets_a_gradient_and_the_loss_falls(objective: Reconstruction) -> None:
    module = objective.module
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = objective.loss(module, objective.batch(range(16), 1))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        waking = step < 2  # behind a zero: the second convolutions first, then the first ones
        assert waking or all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_training_the_decoder_goes_on_with_the_latents_that_were_exported(
    objective: Reconstruction, tmp_path: Path
) -> None:
    objective.export(objective.module, tmp_path / "both.safetensors")
    exported = ToyAutoencoder.load(tmp_path / "both.safetensors")
    later = replace(SMALL, trains="decoder").build(seed=3)
    later.start(objective.module.state_dict(), source="test")
    module = later.module
    assert isinstance(module, ToyAutoencoder) and module.latents_id() == exported.latents_id()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-3)
    later.loss(module, later.batch(range(4), 1))[0].mean().backward()
    optimizer.step()
    assert not torch.equal(module.decoder.head.weight, objective.module.state_dict()["decoder.head.weight"])
    later.export(module, tmp_path / "decoder.safetensors")
    after = ToyAutoencoder.load(tmp_path / "decoder.safetensors")
    assert after.latents_id() == exported.latents_id()


def test_exported_latents_have_mean_zero_and_variance_one(objective: Reconstruction, tmp_path: Path) -> None:
    objective.export(objective.module, tmp_path / "autoencoder.safetensors")
    autoencoder = ToyAutoencoder.load(tmp_path / "autoencoder.safetensors")
    with torch.no_grad():
        latents = autoencoder.encode(objective.frames[:, :, None].float() / 127.5 - 1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(8), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(1), torch.ones(8), rtol=1e-3, atol=0)


def test_a_stop_while_training_the_decoder_keeps_the_latents(objective: Reconstruction) -> None:
    """What goes on after a stop loads a checkpoint and never calls `start`."""
    settings = replace(SMALL, trains="decoder")
    before, after = settings.build(seed=3), settings.build(seed=3)
    before.start(objective.module.state_dict(), source="test")
    after.module.load_state_dict(before.module.state_dict())
    batch = before.batch(range(4), 1)
    with torch.no_grad():
        first, second = (one.loss(one.module.train(), batch)[0] for one in (before, after))
    assert torch.equal(first, second)


def test_the_preview_shows_clips_above_what_is_made_of_them(objective: Reconstruction) -> None:
    video = objective.preview(objective.module, 1)
    assert (video.num_frames, video.height, video.width) == (16, 128, 256)


def test_a_probe_reads_the_latents_of_small_frames_and_stays_behind(tmp_path: Path) -> None:
    supervised = replace(SMALL, structure=0.5)
    torch.manual_seed(0)
    objective = supervised.build(seed=3)
    usual, large = objective.batch(range(8), 3), objective.batch(range(8), 4)
    assert usual.maps is not None and usual.maps.shape == (8, 20, 8, 8) and large.maps is None
    loss, numbers = objective.loss(objective.module, usual)
    assert {"psnr_db", "shape", "colour", "background"} <= numbers.keys()
    loss.mean().backward()
    assert objective.module.get_submodule("probe.out").weight.grad is not None
    assert objective.loss(objective.module, large)[1].keys() == {"psnr_db"}
    objective.export(objective.module, tmp_path / "weights.safetensors")
    ToyAutoencoder.load(tmp_path / "weights.safetensors")  # which takes no other names
    later = replace(SMALL, trains="decoder").build(seed=3)
    later.start(objective.module.state_dict(), source="test")
    with pytest.raises(RecipeError, match=r"structure=0\.5 must be"):
        replace(supervised, trains="decoder")


def test_a_decoder_trained_from_an_exported_file_on_other_frames_keeps_its_latents(
    objective: Reconstruction, tmp_path: Path
) -> None:
    objective.export(objective.module, tmp_path / "both.safetensors")
    exported = ToyAutoencoder.load(tmp_path / "both.safetensors")
    later = replace(SMALL, trains="decoder", first_seed=500).build(seed=3)
    later.start(exported.state_dict(), source="test")
    later.export(later.module, tmp_path / "decoder.safetensors")
    assert ToyAutoencoder.load(tmp_path / "decoder.safetensors").latents_id() == exported.latents_id()
