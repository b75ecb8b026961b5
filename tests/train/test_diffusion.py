"""From a world to latents to a video model that learns: what is drawn, what weighs, what comes out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mutoscope import pipeline
from mutoscope.autoencoders.toy import ToyAutoencoder
from mutoscope.core import config, weights
from mutoscope.core.errors import MediaError, RecipeError, WeightsError
from mutoscope.data.shards import Shards
from mutoscope.diffusion.guidance import Guidance
from mutoscope.loading import load
from mutoscope.models.family import Sampling
from mutoscope.train import loop, precompute
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents, LengthMix, OneSize
from mutoscope.train.precompute import FolderClips, Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe
from mutoscope.train.structure import Supervision
from mutoscope.worlds.scene import sample
from mutoscope.worlds.truth import truth_maps
from tests.train.small import write_models

WORLD = WorldClips(count=6, num_frames=8, height=32, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a small autoencoder, a small encoder and six encoded clips."""
    at = tmp_path_factory.mktemp("diffusion")
    write_models(at, ["a", "red", "circle", "drifts", "left"])
    precompute.encode(encoding(at))
    return at


def encoding(at: Path, **changes: object) -> Precompute:
    usual = Precompute("latents", WORLD, str(at / "autoencoder.safetensors"), str(at / "latents"), shard_size=4)
    return replace(usual, **changes)  # pyright: ignore[reportArgumentType]


def settings(at: Path, **changes: object) -> DiffusionObjective:
    usual = DiffusionObjective(
        data=(Latents(str(at / "latents")),),
        autoencoder=str(at / "autoencoder.safetensors"),
        encoder=str(at / "words.safetensors"),
        model="stiv/tiny",
        prompts=("a red circle drifts left",),
        sampling=Sampling(steps=2, sampler="euler", guidance=Guidance(2.0)),
    )
    return replace(usual, **changes)  # pyright: ignore[reportArgumentType]


def built(at: Path, **changes: object) -> OneSize:
    objective = settings(at, **changes).build(seed=5)
    assert isinstance(objective, OneSize)
    torch.manual_seed(1)
    for parameter in objective.module.parameters():  # away from the initial zeros, which hide errors
        parameter.data += 0.05 * torch.randn_like(parameter)
    return objective


def test_precomputed_latents_are_those_of_the_rendered_clip(folder: Path) -> None:
    shards = Shards(folder / "latents")
    assert len(shards) == 6 and shards.latent_shape == (4, 8, 4, 4)
    assert [shards.clip(i).scene_seed for i in range(6)] == list(range(6))
    frames, _ = WORLD.listing()[5].load()
    video = torch.from_numpy(frames).movedim(-1, 0)[None].float() / 127.5 - 1
    encoded = ToyAutoencoder.load(folder / "autoencoder.safetensors").encode(video)[0]
    torch.testing.assert_close(shards.latents(5), encoded, rtol=2e-3, atol=2e-3)


def test_precomputing_goes_on_where_it_stopped_and_takes_more_clips_later(tmp_path: Path, folder: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (folder / "latents").iterdir()}
    task = encoding(folder, folder=str(tmp_path))
    precompute.encode(replace(task, source=replace(WORLD, count=5)))
    (tmp_path / "00000.jsonl").unlink()  # as if killed before the first shard was whole
    precompute.encode(task)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    precompute.encode(task)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    with pytest.raises(MediaError, match="source="):
        precompute.encode(replace(task, source=replace(WORLD, split="held_out")))
    with pytest.raises(MediaError, match="6 clips, more than the 3"):
        precompute.encode(replace(task, source=replace(WORLD, count=3)))


@pytest.mark.slow
def test_workers_write_the_same_shards(tmp_path: Path, folder: Path) -> None:
    precompute.encode(encoding(folder, folder=str(tmp_path), workers=2))
    for path in (folder / "latents").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_batch_depends_on_seed_sample_and_step_alone(folder: Path) -> None:
    objective = built(folder, given=GivenMix(none=1, random=1), mask_ratio=0.5)
    together, alone = objective.batch([3, 1, 0, 4], 7), objective.batch([0], 7)
    assert torch.equal(together.clips[2:3], alone.clips) and torch.equal(together.noise[2:3], alone.noise)
    assert torch.equal(together.t[2:3], alone.t) and torch.equal(together.given[2:3], alone.given)
    assert together.texts[2] == alone.texts[0] and together.keep is not None and alone.keep is not None
    assert torch.equal(together.keep[2:3], alone.keep)
    later = objective.batch([0], 8)
    assert not torch.equal(later.noise, alone.noise) and not torch.equal(later.t, alone.t)


def test_each_pattern_gives_its_frames() -> None:
    draw = np.random.default_rng(0)

    def frames(**pattern: float) -> list[int]:
        return GivenMix(**({"none": 0.0} | pattern)).draw(8, draw).nonzero()[:, 0].tolist()

    assert frames(none=1) == [] and frames(first=1) == [0] and frames(first_four=1) == [0, 1, 2, 3]
    assert frames(first_last=1) == [0, 7] and frames(every_second=1) == [0, 2, 4, 6]
    numbers = [len(frames(random=1)) for _ in range(200)]
    assert set(numbers) == set(range(1, 8))


def test_patterns_texts_and_tokens_come_in_the_shares_asked_for(folder: Path) -> None:
    mix = GivenMix(none=0.25, first=0.75)
    objective = built(folder, given=mix, text_dropout=0.4, mask_ratio=0.25, lengths=LengthMix(1, 0, 0))
    shards = objective.sources[0]
    drawn = [objective._draw(one % 6, one, shards.clip(one % 6), shards.latent_shape) for one in range(600)]
    assert np.mean([one.given.any().item() for one in drawn]) == pytest.approx(0.75, abs=0.06)
    assert np.mean([one.text == "" for one in drawn]) == pytest.approx(0.4, abs=0.06)
    kept = torch.stack([one.keep for one in drawn if one.keep is not None])
    assert kept.shape == (600, 3) and bool((kept.diff(dim=1) > 0).all())  # 3 of 4, each once
    assert torch.bincount(kept.flatten(), minlength=4).float().div(600).sub(0.75).abs().max() < 0.06


def test_given_frames_have_no_part_in_the_loss(folder: Path) -> None:
    objective = built(folder, given=GivenMix(none=0, first_last=1))
    batch = objective.batch([0, 1], 1)
    answers: list[torch.Tensor] = []

    def keep_answer(module: object, args: object, answer: torch.Tensor) -> None:
        answer.retain_grad()
        answers.append(answer)

    objective.module.register_forward_hook(keep_answer)
    losses, _ = objective.loss(objective.module, batch)
    losses.sum().backward()
    gradient = answers[0].grad
    assert gradient is not None
    per_frame = gradient.abs().sum((0, 1, 3, 4))
    assert per_frame[[0, 7]].tolist() == [0, 0] and bool((per_frame[1:7] > 0).all())
    with torch.no_grad():  # the mean is over the frames that are not given
        error = (answers[0] - (batch.noise - batch.clips)).square()[:, :, 1:7]
    torch.testing.assert_close(losses.detach(), error.mean((1, 2, 3, 4)))


def test_a_mask_that_keeps_every_token_is_no_mask(folder: Path) -> None:
    objective = built(folder)
    batch = objective.batch([0, 1, 2], 1)
    every = replace(batch, keep=torch.arange(4).repeat(3, 1))
    plain, masked = (objective.loss(objective.module, one)[0] for one in (batch, every))
    torch.testing.assert_close(plain, masked)


def test_repeated_data_sets_fill_the_epoch_in_their_proportion(folder: Path) -> None:
    parts = (Latents(str(folder / "latents")), Latents(str(folder / "latents"), repeat=2))
    objective = built(folder, data=parts)
    assert objective.sample_count == 18
    for one in range(18):
        assert torch.equal(objective.batch([one], 1).clips[0], objective.sources[0].latents(one % 6))


def test_pictures_are_single_frames_of_the_clips(folder: Path) -> None:
    objective = built(folder, window=1, overrides=("patch_size=[1,2,2]", "temporal=false"))
    clips = [objective.sources[0].latents(one) for one in range(6)]
    index = max(range(6), key=lambda one: float(clips[one].diff(dim=1).abs().amax((0, 2, 3)).min()))  # moves throughout
    stored = clips[index]
    seen = {
        int((stored - objective.batch([index], step).clips[0]).abs().amax((0, 2, 3)).argmin()) for step in range(60)
    }
    assert seen == set(range(8))
    assert objective.batch([index], 1).facts[0].num_frames == 1


def test_windows_are_runs_of_frames_from_anywhere_in_the_clip(folder: Path) -> None:
    objective = built(folder, window=4)
    clip = objective.sources[0].latents(0)
    seen = set()
    for step in range(60):
        window = objective.batch([0], step).clips[0]
        starts = [at for at in range(5) if torch.equal(window, clip[:, at : at + 4])]
        assert starts
        seen.update(starts)
    assert seen == set(range(5))
    assert objective.batch([0], 1).facts[0].num_frames == 4


def test_clips_can_be_chosen_by_how_much_they_show(folder: Path) -> None:
    counts = [len(sample(seed).things) for seed in range(6)]
    assert min(counts) == 1 < max(counts)
    one = Latents(str(folder / "latents"), most_things=1)
    objective = built(folder, data=(one, Latents(str(folder / "latents"))))
    alone = [index for index, count in enumerate(counts) if count == 1]
    assert objective.sample_count == len(alone) + 6
    for number, index in enumerate([*alone, *range(6)]):
        assert torch.equal(objective.batch([number], 1).clips[0], objective.sources[0].latents(index))
    with pytest.raises(RecipeError, match="at most 0 things"):
        built(folder, data=(replace(one, most_things=0),))


def recipe(at: Path) -> Recipe:
    picture = settings(at, window=1, overrides=("patch_size=[1,2,2]", "temporal=false"))
    clip = settings(at, given=GivenMix(none=0.5, first=0.5), mask_ratio=0.5, inflate=True)
    usual = Phase("pictures", picture, steps=2, batch_size=2, warmup_steps=0, save_every=1, sample_every=2)
    return Recipe(
        "tiny",
        (encoding(at), usual, replace(usual, name="clips", objective=clip, start_from="previous", precision="bf16")),
    )


def test_images_then_clips_run_to_weights_that_generate(tmp_path: Path, folder: Path) -> None:
    whole = recipe(folder)
    assert config.from_json(Recipe, config.to_json(whole)) == whole
    made = loop.run(whole, tmp_path)
    assert (tmp_path / "pictures" / "samples" / "step-000002.png").exists()
    assert (tmp_path / "clips" / "samples" / "step-000002.gif").exists()
    system = load(str(made), "cpu")
    request = pipeline.Request("a red circle", steps=2)
    assert system.generate([request])[0].array().shape == (8, 32, 32, 3)


def test_joint_start_takes_motion_from_the_video_model_and_all_else_from_the_image_model(
    tmp_path: Path, folder: Path
) -> None:
    image = built(folder, window=1, overrides=("patch_size=[1,2,2]", "temporal=false")).module.state_dict()
    video = {name: value + 1 for name, value in built(folder).module.state_dict().items()}
    weights.save(tmp_path / "video.safetensors", video, {})
    objective = built(folder, inflate=True, motion_from=str(tmp_path / "video.safetensors"))
    objective.start(image, source="image")
    started = objective.module.state_dict()
    assert torch.equal(started["blocks.0.temporal.qkv.weight"], video["blocks.0.temporal.qkv.weight"])
    assert torch.equal(started["blocks.0.spatial.qkv.weight"], image["blocks.0.spatial.qkv.weight"])
    with pytest.raises(RecipeError, match="Set inflate to True"):
        built(folder, motion_from=str(tmp_path / "video.safetensors"))


def test_training_learns_its_clips(folder: Path) -> None:
    from mutoscope.train.optim import AdamW
    from mutoscope.train.state import TrainState
    from mutoscope.train.step import train_step

    torch.manual_seed(0)
    objective = settings(folder, text_dropout=0.0).build(seed=0)
    state = TrainState.begin(objective.module, AdamW().build(objective.module))
    losses = [
        train_step(objective, state, [objective.batch(range(6), step)], 6, lr=3e-3, clip=1.0, ema_decay=0.9)["loss"]
        for step in range(1, 51)
    ]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"window": 1}, "cannot be cut into patches"),
        ({"window": 1, "overrides": ("patch_size=[1,2,2]",), "given": GivenMix(first=1)}, "need clips of 2 frames"),
        ({"window": 9}, "window=9 does not fit"),
        ({"overrides": ("latent_channels=8",)}, "has 4"),
        ({"overrides": ("depht=2",)}, "depth"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(folder: Path, changes: dict, error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        settings(folder, **changes).build(seed=0)


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path, folder: Path) -> None:
    state, metadata = weights.read(folder / "autoencoder.safetensors")
    other = tmp_path / "other.safetensors"
    weights.save(other, {name: value + 0.01 for name, value in state.items()}, metadata)
    with pytest.raises(RecipeError, match="another autoencoder"):
        settings(folder, autoencoder=str(other)).build(seed=0)


def test_missing_weights_are_named(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        settings(folder, encoder="nowhere.safetensors").build(seed=0)
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        precompute.encode(encoding(folder, autoencoder="nowhere.safetensors"))


def test_real_files_become_clips_with_their_captions(tmp_path: Path, folder: Path) -> None:
    from mutoscope.core.video import Video

    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
    Video.from_array(frames, 16).save(tmp_path / "long.mp4")
    Video.from_array(frames[:8], 16).save(tmp_path / "short.mp4")
    (tmp_path / "captions.csv").write_text(
        "file,caption,language,length\nlong.mp4,noise,en,short\nlong.mp4,噪声,zh,short\nshort.mp4,less,,\n", "utf-8"
    )
    source = FolderClips(
        str(tmp_path), str(tmp_path / "captions.csv"), num_frames=8, height=32, width=32, crop=True, windows=5
    )
    precompute.encode(encoding(folder, source=source, folder=str(tmp_path / "latents")))
    shards = Shards(tmp_path / "latents")
    assert [shards.clip(i).id for i in range(len(shards))] == ["long.mp4-0", "long.mp4-1"]
    clip = shards.clip(0)
    assert [one.text for one in clip.captions] == ["noise", "噪声"]
    assert (clip.source_height, clip.source_width, clip.crop_top, clip.crop_left, clip.stride) == (48, 64, 0, 5, 2)
    objective = built(folder, data=(Latents(str(tmp_path / "latents")),), text_dropout=0.0)
    assert {objective.batch([0], step).texts[0] for step in range(20)} == {"noise", "噪声"}


FINE = ("patch_size=[2,1,1]",)  # tokens of one cell each, which a probe can read


def test_the_truth_that_supervises_is_that_of_the_frames_drawn(folder: Path) -> None:
    objective = built(folder, overrides=FINE, window=4, supervision=Supervision(object_weight=3.0))
    batch = objective.batch([4], 2)
    assert batch.maps is not None and batch.maps.shape[1] == 4
    truth = torch.from_numpy(truth_maps(sample(4), 8, 32, 32))
    assert any(torch.equal(batch.maps[0], truth[first : first + 4]) for first in range(5))


def test_a_weight_of_one_and_no_probe_leave_the_loss_as_it_is(folder: Path) -> None:
    losses = []
    for supervision in (None, Supervision(), Supervision(object_weight=4.0)):
        objective = built(folder, overrides=FINE, supervision=supervision)
        losses.append(objective.loss(objective.module, objective.batch(range(4), 1))[0])
    torch.testing.assert_close(losses[0], losses[1])
    assert not torch.allclose(losses[0], losses[2])


def test_a_probe_teaches_the_blocks_before_it_and_stays_behind(folder: Path, tmp_path: Path) -> None:
    objective = built(folder, overrides=FINE, supervision=Supervision(probe=0.1, block=0))
    plain = built(folder, overrides=FINE)
    batch = objective.batch(range(4), 1)
    loss, numbers = objective.loss(objective.module, batch)
    assert loss.mean() > numbers["velocity_error"] and 0 <= numbers["probe_shape"] <= 1
    loss.mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in objective.module.get_submodule("probe").parameters())
    objective.export(objective.module, tmp_path / "weights.safetensors")
    tensors, _ = weights.read(tmp_path / "weights.safetensors")
    assert tensors.keys() == plain.module.state_dict().keys()
    objective.start(tensors, source="test")  # with a probe of its own again
    plain.start(objective.module.state_dict(), source="test")  # and without
    torch.testing.assert_close(plain.module.state_dict()["patch.weight"], tensors["patch.weight"].float())


def test_tokens_of_several_cells_cannot_be_probed(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no tokens of one cell"):
        settings(folder, supervision=Supervision(probe=0.1)).build(seed=0)
    with pytest.raises(RecipeError, match="the network has blocks 0 to 2"):
        settings(folder, overrides=FINE, supervision=Supervision(probe=0.1, block=3)).build(seed=0)
