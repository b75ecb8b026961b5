"""The bundled video model: pictures first, then clips with half of the tokens masked, then every task unmasked.

    mutoscope train recipes/toy/stiv.py --out runs/toy-stiv

Needs the bundled autoencoder and text encoder (autoencoder.py and words.py beside this file make them). The course is
that of STIV (arXiv 2412.07730): an image model, inflated to a video model, masked training, an unmasked end. From the
masked phase on one model learns all tasks, by drawing which frames are given. About 75 minutes on two free CPU cores.
"""

from mutoscope.diffusion.flow import FlowMatching, LogitNormal
from mutoscope.diffusion.guidance import Guidance
from mutoscope.models.family import Sampling
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe

AUTOENCODER = "mutoscope/bundled/autoencoder_toy.safetensors"
ENCODER = "mutoscope/bundled/words.safetensors"
LATENTS = "runs/toy-latents"

ALL_TASKS = GivenMix(none=0.6, first=0.16, first_four=0.06, first_last=0.06, every_second=0.06, random=0.06)

# What moves where is settled while a clip is still nine tenths noise: 16 frames that show the same things average the
# noise away. So training and sampling spend more of their time near noise than for one frame.
CLIP_SHIFT = 3.0
FRAME_SHIFT = 1.5
SAMPLING = Sampling(
    steps=30,
    sampler="adams_bashforth",
    guidance=Guidance(text_scale=4.0, renormalised_by="sample"),
    shift=CLIP_SHIFT,
)


def recipe() -> Recipe:
    """Return the run."""
    images = DiffusionObjective(
        data=(Latents(LATENTS),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        overrides=("patch_size=[1,2,2]", "temporal=false"),
        process=FlowMatching(LogitNormal(std=1.25), shift=FRAME_SHIFT),
        frames="one",
        sampling=SAMPLING,
    )
    masked = DiffusionObjective(
        data=(Latents(LATENTS),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        process=FlowMatching(LogitNormal(std=1.25), shift=CLIP_SHIFT),
        given=ALL_TASKS,
        mask_ratio=0.5,
        inflate=True,
        sampling=SAMPLING,
    )
    tasks = DiffusionObjective(
        data=(Latents(LATENTS),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        process=FlowMatching(LogitNormal(std=1.25), shift=CLIP_SHIFT),
        given=ALL_TASKS,
        sampling=SAMPLING,
    )
    return Recipe(
        name="toy stiv",
        phases=(
            Precompute("latents", WorldClips(count=40_000), AUTOENCODER, LATENTS),
            Phase(
                name="images",
                objective=images,
                steps=700,
                batch_size=128,
                lr=1e-3,
                warmup_steps=100,
                ema_decay=0.995,
                precision="bf16",
                sample_every=700,
            ),
            Phase(
                name="masked",
                objective=masked,
                steps=2000,
                batch_size=32,
                lr=1e-3,
                warmup_steps=100,
                ema_decay=0.995,
                precision="bf16",
                start_from="previous",
                sample_every=700,
            ),
            Phase(
                name="tasks",
                objective=tasks,
                steps=3000,
                batch_size=32,
                lr=1e-3,
                warmup_steps=100,
                schedule="cosine",
                ema_decay=0.998,
                precision="bf16",
                start_from="previous",
                sample_every=700,
            ),
        ),
    )
