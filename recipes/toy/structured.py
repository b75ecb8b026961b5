"""A video model on structured latents: an autoencoder supervised by the truth of its world, and STIV on its latents.

    mutoscope train recipes/toy/structured.py --out runs/structured

Needs the bundled text encoder, and a C++ compiler for torch.compile. The autoencoder's latents say what is where, as a
linear probe can read them through noise; a probe on the tokens of STIV's third block reads the same, and motion and
camera. Both probes are dropped at export. Why, and what it is worth: docs/decisions/0001-latents.md.
"""

from dataclasses import replace

from mutoscope.autoencoders.toy import ToyConfig
from mutoscope.diffusion.flow import FlowMatching, LogitNormal
from mutoscope.diffusion.guidance import Guidance
from mutoscope.models.family import Sampling
from mutoscope.train.autoencoder import AutoencoderObjective
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents, LengthMix
from mutoscope.train.optim import AdamW, Muon
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe
from mutoscope.train.structure import Supervision

OUT = "runs/structured"  # the same as --out: later phases read what earlier ones wrote
AUTOENCODER = f"{OUT}/decoder/weights.safetensors"
ENCODER = "mutoscope/bundled/words.safetensors"
LATENTS = f"{OUT}/latents"
CHANNELS = 16
ALL_TASKS = GivenMix(none=0.6, first=0.16, first_four=0.06, first_last=0.06, every_second=0.06, random=0.06)


def recipe() -> Recipe:
    """Return the run."""
    both = Phase(
        name="both",
        objective=AutoencoderObjective(
            model=ToyConfig(latent_channels=CHANNELS, encoder_depth=3),
            structure=0.4,
            noise=0.6,
            noise_varies=True,
            clips=12_000,
            large_clips=1000,
            large_every=16,
        ),
        steps=3600,
        batch_size=32,
        optimizer=Muon(rest=AdamW(beta2=0.98, weight_decay=0.0)),
        lr=3e-3,
        warmup_steps=50,
        schedule="cosine",
        ema_decay=0.995,
    )
    decoder = replace(
        both,
        name="decoder",
        objective=replace(both.objective, trains="decoder", structure=0.0, noise=0.5, squares=20.0, first_seed=40_000),
        start_from="previous",
        lr=2e-3,
    )
    clips = DiffusionObjective(
        data=(Latents(LATENTS, repeat=3, most_things=1), Latents(LATENTS)),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        overrides=("patch_size=[8,1,1]", f"latent_channels={CHANNELS}"),
        process=FlowMatching(LogitNormal(std=1.25), shift=3.0),
        given=ALL_TASKS,
        lengths=LengthMix(brief=0.25, short=0.6, dense=0.15),
        supervision=Supervision(object_weight=3.0, probe=0.05, block=2),
        sampling=Sampling(
            steps=12, sampler="euler", guidance=Guidance(text_scale=2.0, renormalised_by="sample"), shift=3.0
        ),
    )
    windows = replace(
        clips,
        process=FlowMatching(LogitNormal(std=1.25), shift=2.0),
        given=GivenMix(none=0.85, first=0.1, random=0.05),
        lengths=LengthMix(brief=0.3, short=0.7, dense=0.0),
        window=8,
    )
    of_windows = Phase(
        name="windows",
        objective=windows,
        steps=350,
        batch_size=64,
        micro_batches=4,  # small ones stay in the processor's cache
        optimizer=Muon(),
        lr=4e-3,
        warmup_steps=50,
        ema_decay=0.99,
        precision="bf16",
        save_every=50,
    )
    of_clips = replace(
        of_windows,
        name="clips",
        objective=clips,
        steps=660,
        batch_size=32,
        schedule="cosine",
        warmup_steps=20,
        ema_decay=0.995,
        compile=True,
        start_from="previous",
    )
    latents = Precompute("latents", WorldClips(10_000), AUTOENCODER, LATENTS)
    return Recipe(name="toy, structured", phases=(both, decoder, latents, of_windows, of_clips))
