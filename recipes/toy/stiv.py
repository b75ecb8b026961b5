"""The bundled video model: first windows of four frames, then clips, where one model learns every task.

    mutoscope train recipes/toy/stiv.py --out runs/toy-stiv

Needs the bundled autoencoder and text encoder (autoencoder.py and words.py beside this file make them), and a C++
compiler for torch.compile. STIV (arXiv 2412.07730) inflates an image model to a video model. Here a window of four
frames is one slot of tokens: it costs what a picture would and shows motion, too, and nothing needs inflating. The
clips are left to teach how things move for longer. All along one model learns all tasks, by drawing which frames are
given. What each choice is worth: docs/decisions/0002-toy-training.md and 0004-fewer-weights.md.
"""

from dataclasses import replace

from mutoscope.diffusion.flow import FlowMatching, LogitNormal
from mutoscope.diffusion.guidance import Guidance
from mutoscope.models.family import Sampling
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents, LengthMix
from mutoscope.train.optim import Muon
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe

AUTOENCODER = "mutoscope/bundled/autoencoder_toy.safetensors"
ENCODER = "mutoscope/bundled/words.safetensors"
LATENTS = "runs/toy-latents"

ALL_TASKS = GivenMix(none=0.6, first=0.16, first_four=0.06, first_last=0.06, every_second=0.06, random=0.06)

# What moves where is settled while a clip is still nine tenths noise: 16 frames that show the same things average the
# noise away. So training and sampling spend more of their time near noise than for a few frames.
CLIP_SHIFT = 3.0
SLOT_SHIFT = 2.0
SAMPLING = Sampling(
    steps=20,
    sampler="adams_bashforth",
    guidance=Guidance(text_scale=3.0, renormalised_by="sample"),
    shift=CLIP_SHIFT,
)


def recipe() -> Recipe:
    """Return the run."""
    clips = DiffusionObjective(
        data=(Latents(LATENTS, repeat=2, most_things=1), Latents(LATENTS)),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        process=FlowMatching(LogitNormal(std=1.25), shift=CLIP_SHIFT),
        given=ALL_TASKS,
        sampling=SAMPLING,
    )
    slots = replace(
        clips,
        process=FlowMatching(LogitNormal(std=1.25), shift=SLOT_SHIFT),
        given=GivenMix(none=0.85, first=0.1, random=0.05),
        lengths=LengthMix(brief=0.3, short=0.7, dense=0.0),  # a long text costs more than the frames that it tells of
        window=4,
    )
    of_slots = Phase(
        name="slots",
        objective=slots,
        steps=2374,
        batch_size=64,
        optimizer=Muon(),
        lr=4e-3,
        warmup_steps=100,
        ema_decay=0.995,
        precision="bf16",
        compile=True,
        save_every=250,
        sample_every=1000,
    )
    of_clips = replace(
        of_slots,
        name="tasks",
        objective=clips,
        steps=1300,
        batch_size=32,
        ema_decay=0.998,
        schedule="cosine",
        start_from="previous",
    )
    longer = replace(of_clips, name="longer", steps=600, lr=3e-3, warmup_steps=20)
    return Recipe(
        name="toy stiv",
        phases=(
            Precompute("latents", WorldClips(count=40_000), AUTOENCODER, LATENTS, workers=1),
            of_slots,
            of_clips,
            longer,
        ),
    )
