"""The bundled autoencoder: frames of procedural worlds, on two CPU cores.

mutoscope train recipes/toy/autoencoder.py --out runs/autoencoder
"""

from dataclasses import replace

from mutoscope.train.autoencoder import AutoencoderObjective
from mutoscope.train.optim import AdamW
from mutoscope.train.recipe import Phase, Recipe


def recipe() -> Recipe:
    """Return the run."""
    first = Phase(
        name="autoencoder",
        objective=AutoencoderObjective(),
        steps=4000,
        batch_size=32,
        optimizer=AdamW(beta1=0.9, beta2=0.99),
        lr=1e-3,
        warmup_steps=100,
        schedule="cosine",
        ema_decay=0.998,
        precision="bf16",
        sample_every=500,
    )
    # Less noise and more weight on large errors, once the decoder has found its way: shapes get their corners.
    sharpen = replace(
        first,
        name="sharpen",
        objective=AutoencoderObjective(noise=0.1, squares=10.0),
        start_from="previous",
        steps=5000,
        sample_every=0,
    )
    # Small things are the last to get theirs.
    small = replace(
        sharpen,
        name="small",
        objective=AutoencoderObjective(noise=0.1, squares=20.0, clips=40_000),
        steps=12_000,
        save_every=1000,
        log_every=100,
    )
    return Recipe(name="toy autoencoder", phases=(first, sharpen, small))
