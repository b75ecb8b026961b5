from pathlib import Path

import pytest
import torch

from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core.errors import RecipeError
from mutoscope.train.autoencoder import (
    AutoencoderObjective,
    Reconstruction,
    hadamard,
    psnr,
    start_at_principal_components,
    statistics,
)

SMALL = AutoencoderObjective(model=ToyConfig(encoder_dims=(8, 8), decoder_dims=(8, 8)), clips=24, frames_per_clip=2)


@pytest.fixture(scope="module")
def objective() -> Reconstruction:
    torch.manual_seed(0)
    return SMALL.build(seed=3)


def test_training_begins_at_the_principal_components(objective: Reconstruction) -> None:
    """What is lost is then the variance of the components left out (Pearson 1901)."""
    frames = torch.rand(64, 3, 16, 16)
    autoencoder = ToyAutoencoder(SMALL.model)
    start_at_principal_components(autoencoder, frames)
    squares = frames.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).double()
    lost = torch.linalg.eigvalsh(torch.cov(squares.T))[:-16].sum() * (len(squares) - 1) / squares.numel()
    with torch.no_grad():
        made = autoencoder.decoder(autoencoder.encoder(frames))
    torch.testing.assert_close((made - frames).square().mean().double(), lost, rtol=1e-3, atol=0)


def test_channels_begin_with_equal_deviations(objective: Reconstruction) -> None:
    frames = torch.rand(64, 3, 16, 16)
    autoencoder = ToyAutoencoder(SMALL.model)
    start_at_principal_components(autoencoder, frames)
    with torch.no_grad():
        _, std = statistics(autoencoder.encoder(frames))
    torch.testing.assert_close(std, torch.ones(16), rtol=0.1, atol=0)


def test_hadamard_is_orthogonal_with_entries_of_one_magnitude() -> None:
    matrix = hadamard(16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full((16, 16), 0.25, dtype=torch.float64))
    with pytest.raises(RecipeError, match="Use 8 or 16"):
        hadamard(12)


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
        assert step == 0 or all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_frozen_encoder_keeps_its_weights_and_statistics() -> None:
    objective = AutoencoderObjective(model=SMALL.model, clips=4, frozen_encoder=True).build(seed=0)
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    objective.loss(objective.module, objective.batch(range(4), 1))[0].mean().backward()
    trained = {name for name, p in objective.module.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith("decoder.") for name in trained)
    torch.testing.assert_close(objective.module.state_dict()["mean"], before["mean"], rtol=0, atol=0)


def test_exported_weights_load_and_normalise(objective: Reconstruction, tmp_path: Path) -> None:
    objective.export(objective.module, tmp_path / "autoencoder.safetensors")
    autoencoder = ToyAutoencoder.load(tmp_path / "autoencoder.safetensors")
    frames = objective.frames.float() / 127.5 - 1
    latents = autoencoder.encode(frames[:, :, None])
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(16), rtol=0, atol=0.05)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=0.05)


def test_the_preview_shows_clips_above_what_is_made_of_them(objective: Reconstruction) -> None:
    video = objective.preview(objective.module, 1)
    assert (video.num_frames, video.height, video.width) == (16, 128, 256)
