"""The bundled video model: windows of four frames, then clips, where one model learns every task; then both again.

    mutoscope train recipes/toy/stiv.py --out runs/toy-stiv

Needs the bundled autoencoder and text encoder (autoencoder.py and words.py beside this file make them), and a C++
compiler for torch.compile. STIV (arXiv 2412.07730) inflates an image model to a video model. Here a window of four
frames is one slot of tokens: it costs what a picture would and shows motion, too, and nothing needs inflating. The
clips are left to teach how things move for longer. All along one model learns all tasks, by drawing which frames are
given. The second round begins where the first ended, with as many scenes again that it has not seen; a third has clips
alone. What each choice is worth: docs/decisions/0002-training.md.
"""

from dataclasses import replace

from mutoscope.diffusion.flow import FlowMatching, LogitNormal
from mutoscope.diffusion.guidance import Guidance
from mutoscope.diffusion.samplers import Restarts
from mutoscope.models.family import Sampling
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents, LengthMix
from mutoscope.train.optim import Muon
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe

AUTOENCODER = "mutoscope/bundled/autoencoder_toy.safetensors"
ENCODER = "mutoscope/bundled/words.safetensors"
LATENTS, MORE_LATENTS = "runs/toy-latents", "runs/toy-latents-2"
SCENES = 40_000  # in each

ALL_TASKS = GivenMix(none=0.6, first=0.16, first_four=0.06, first_last=0.06, every_second=0.06, random=0.06)

# What moves where is settled while a clip is still nine tenths noise: 16 frames that show the same things average the
# noise away. So training and sampling spend more of their time near noise than for a few frames.
CLIP_SHIFT = 3.0
SLOT_SHIFT = 2.0
SAMPLING = Sampling(
    steps=8,
    sampler="adams_bashforth",
    guidance=Guidance(text_scale=2.0, renormalised_by="sample"),
    shift=CLIP_SHIFT,
    restarts=Restarts(count=4, high=0.8, low=0.3),
)


def recipe() -> Recipe:
    """Return the run."""
    clips = DiffusionObjective(
        data=_mostly_one_thing(LATENTS),
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
    slots_again = replace(of_slots, name="slots-again", steps=1912, start_from="previous")
    twice = replace(clips, data=_mostly_one_thing(LATENTS) + _mostly_one_thing(MORE_LATENTS))
    clips_again = replace(of_clips, name="tasks-again", objective=twice, steps=1500, warmup_steps=50)
    clips_once_more = replace(clips_again, name="tasks-once-more", steps=2050)
    return Recipe(
        name="toy stiv",
        phases=(
            Precompute("latents", WorldClips(SCENES), AUTOENCODER, LATENTS, workers=1),
            Precompute("more-latents", WorldClips(SCENES, first_seed=SCENES), AUTOENCODER, MORE_LATENTS, workers=1),
            of_slots,
            of_clips,
            longer,
            slots_again,
            clips_again,
            clips_once_more,
        ),
    )


def _mostly_one_thing(folder: str) -> tuple[Latents, ...]:
    return Latents(folder, repeat=2, most_things=1), Latents(folder)
