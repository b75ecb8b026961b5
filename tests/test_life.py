"""The whole way on real footage: clips and captions in, a short training run, a file out."""

import csv
import json
from pathlib import Path

import pytest
import torch

from mutoscope.apps.jobs import GenerateJob, generate
from mutoscope.core.video import Video
from mutoscope.loading import load
from mutoscope.pipeline import BUNDLED, Request
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents
from mutoscope.train.loop import run
from mutoscope.train.precompute import FolderClips, Precompute
from mutoscope.train.recipe import Phase, Recipe

MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media" / "public"
CLIPS = ("signing_again_man.mkv", "frog_dolly_in.mp4", "rabbit_small_320.webm", "traffic_overhead_12.5fps.mp4")
AUTOENCODER, ENCODER = str(BUNDLED / "autoencoder_toy.safetensors"), str(BUNDLED / "words.safetensors")


@pytest.mark.skipif(not MEDIA.exists(), reason="the real clips are kept beside the repository, not in it")
def test_short_training_on_real_clips_lowers_the_loss_and_generates_a_file(tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    with (MEDIA / "MANIFEST.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["file"] in CLIPS]
    lines = [json.dumps({"file": row["file"], "caption": row["caption"]}) for row in rows]
    captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    clips = FolderClips(str(MEDIA), str(captions), num_frames=8, height=32, width=32, crop=True)
    objective = DiffusionObjective(
        data=(Latents(str(tmp_path / "latents")),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        model="stiv/tiny",
        overrides=("latent_channels=8", "text_dim=192"),
        given=GivenMix(none=0.5, first=0.5),
        mask_ratio=0.5,
    )
    recipe = Recipe(
        "real",
        (
            Precompute("latents", clips, AUTOENCODER, str(tmp_path / "latents")),
            Phase("clips", objective, steps=60, batch_size=4, lr=5e-3, warmup_steps=5, ema_decay=0.8, log_every=20),
        ),
    )
    weights = run(recipe, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "clips" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    job = GenerateJob(
        Request("a man signs", steps=4), image=MEDIA / "signing_again_man.mkv", fit="crop", out=tmp_path / "made.mp4"
    )
    (path,) = generate(job, load(str(weights), "cpu"), quiet=True)
    video = Video.open(path)
    assert (video.num_frames, video.height, video.width) == (8, 32, 32)
    assert torch.isfinite(video.tensor()).all()
