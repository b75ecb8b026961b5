"""The bundled autoencoder: frames of procedural worlds, on two CPU cores.

    mutoscope train recipes/toy/autoencoder.py --out runs/toy-autoencoder

Needs a C++ compiler for torch.compile. Once the first phase is over the latents are final, and a video model can be
trained on them (stiv.py beside this file) while the second goes on with the decoder.
"""

from dataclasses import replace

from mutoscope.train.autoencoder import AutoencoderObjective
from mutoscope.train.optim import AdamW, Muon
from mutoscope.train.recipe import Phase, Recipe


def recipe() -> Recipe:
    """Return the run."""
    both = Phase(
        name="both",
        objective=AutoencoderObjective(),
        steps=5000,
        batch_size=32,
        optimizer=Muon(rest=AdamW(beta2=0.98, weight_decay=0.0)),
        lr=3e-3,
        warmup_steps=100,
        schedule="cosine",
        ema_decay=0.998,
        precision="bf16",
        compile=True,
        log_every=100,
        save_every=1000,
    )
    decoder = replace(
        both,
        name="decoder",
        objective=AutoencoderObjective(trains="decoder", noise_varies=True, squares=20.0),
        start_from="previous",
        steps=6000,
        lr=2e-3,
    )
    return Recipe(name="toy autoencoder", phases=(both, decoder))
