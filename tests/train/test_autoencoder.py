from pathlib import Path

import pytest
import torch

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core.errors import RecipeError
from mutoscope.train.autoencoder import AutoencoderObjective, Reconstruction, psnr

SMALL = AutoencoderObjective(model=ToyConfig(dims=(8, 8), depths=(1, 1)), clips=24, frames_per_clip=2)


@pytest.fixture(scope="module")
def objective() -> Reconstruction:
    torch.manual_seed(0)
    return SMALL.build(seed=3)


def test_more_frames_than_a_clip_has_are_refused() -> None:
    with pytest.raises(RecipeError, match="frames_per_clip=17 from 1 to 16"):
        AutoencoderObjective(frames_per_clip=17)


def test_training_begins_at_the_linear_part_alone(objective: Reconstruction) -> None:
    module = ToyAutoencoder(SMALL.model)
    latents = torch.randn(1, 16, 2, 2)
    with torch.no_grad():
        assert module.detail.head.bias is not None
        module.detail.head.bias.zero_()
        torch.testing.assert_close(module.decode_frames(latents), module.components.invert(latents))


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


def test_every_weight_gets_a_gradient_and_the_loss_falls(objective: Reconstruction) -> None:
    module = objective.module
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = objective.loss(module, objective.batch(range(16), 0))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        waking = step < 2  # behind a zero: the head at first, then the second convolutions
        assert waking or all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_training_leaves_the_latents_as_they_are(objective: Reconstruction) -> None:
    before = {name: value.clone() for name, value in objective.module.named_buffers()}
    optimizer = torch.optim.AdamW(objective.module.parameters(), 1e-3)
    objective.loss(objective.module, objective.batch(range(4), 1))[0].mean().backward()
    optimizer.step()
    assert len(before) == 3
    for name, value in objective.module.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_exported_weights_make_the_same_latents_to_the_last_bit(objective: Reconstruction, tmp_path: Path) -> None:
    objective.export(objective.module, tmp_path / "autoencoder.safetensors")
    autoencoder = ToyAutoencoder.load(tmp_path / "autoencoder.safetensors")
    frames = objective.frames[:4, :, None].float() / 127.5 - 1
    assert isinstance(objective.module, ToyAutoencoder)
    with torch.no_grad():
        torch.testing.assert_close(autoencoder.encode(frames), objective.module.encode(frames), rtol=0, atol=0)


def test_the_preview_shows_clips_above_what_is_made_of_them(objective: Reconstruction) -> None:
    video = objective.preview(objective.module, 1)
    assert (video.num_frames, video.height, video.width) == (16, 128, 256)
