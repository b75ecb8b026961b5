"""The bundled video model: pictures first, then clips with half of the tokens masked, then every task unmasked.

    mutoscope train recipes/toy/stiv.py --out runs/toy-stiv

Needs the bundled autoencoder and text encoder (autoencoder.py and words.py beside this file make them). The course is that
of STIV (arXiv 2412.07730): an image model, inflated to a video model, masked training, an unmasked end. From the masked phase
on one model learns all tasks, by drawing which frames are given.
"""

from mutoscope.train.diffusion import DiffusionObjective, Given, Latents
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe

AUTOENCODER = "mutoscope/bundled/autoencoder_toy.safetensors"
ENCODER = "mutoscope/bundled/words.safetensors"
LATENTS = "runs/toy-latents"
ALL_TASKS = Given(none=0.6, first=0.16, first_four=0.06, first_last=0.06, every_second=0.06, random=0.06)


def objective(**changes: object) -> DiffusionObjective:
    return DiffusionObjective(data=(Latents(LATENTS),), autoencoder=AUTOENCODER, encoder=ENCODER, **changes)


def recipe() -> Recipe:
    return Recipe(
        "toy-stiv",
        phases=(
            Precompute("latents", WorldClips(count=40_000), AUTOENCODER, LATENTS, workers=1),
            Phase(
                "images",
                objective(
                    frames="one", overrides=("patch_size=[1,2,2]", "temporal=false"), mask_ratio=0.0
                ),
                steps=3000,
                batch_size=128,
                lr=1e-3,
                warmup_steps=200,
                ema_decay=0.998,
                precision="bf16",
                sample_every=1000,
            ),
            Phase(
                "masked",
                objective(inflate=True, mask_ratio=0.5, given=ALL_TASKS),
                steps=6000,
                batch_size=32,
                lr=6e-4,
                warmup_steps=200,
                ema_decay=0.998,
                precision="bf16",
                start_from="previous",
                sample_every=1000,
            ),
            Phase(
                "tasks",
                objective(given=ALL_TASKS),
                steps=6000,
                batch_size=32,
                lr=6e-4,
                warmup_steps=100,
                schedule="cosine",
                ema_decay=0.999,
                precision="bf16",
                start_from="previous",
                sample_every=1000,
            ),
        ),
    )
