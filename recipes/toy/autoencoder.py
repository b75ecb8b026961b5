"""The bundled autoencoder: frames of procedural worlds, on two CPU cores.

mutoscope train recipes/toy/autoencoder.py --out runs/autoencoder
"""

from mutoscope.train.autoencoder import AutoencoderObjective
from mutoscope.train.optim import AdamW
from mutoscope.train.recipe import Phase, Recipe


def recipe() -> Recipe:
    """Return the run."""
    return Recipe(
        name="toy autoencoder",
        phases=(
            Phase(
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
                save_every=500,
                sample_every=500,
            ),
            # Less noise and more weight on large errors, once the decoder has found its way: shapes get their corners.
            Phase(
                name="sharpen",
                objective=AutoencoderObjective(noise=0.1, squares=10.0),
                start_from="previous",
                steps=5000,
                batch_size=32,
                optimizer=AdamW(beta1=0.9, beta2=0.99),
                lr=1e-3,
                warmup_steps=100,
                schedule="cosine",
                ema_decay=0.998,
                precision="bf16",
                save_every=500,
            ),
            # Small things are the last to get their corners.
            Phase(
                name="small",
                objective=AutoencoderObjective(noise=0.1, squares=20.0, clips=40_000, frames_per_clip=4),
                start_from="previous",
                steps=12_000,
                batch_size=32,
                optimizer=AdamW(beta1=0.9, beta2=0.99),
                lr=1e-3,
                warmup_steps=100,
                schedule="cosine",
                ema_decay=0.998,
                precision="bf16",
                save_every=1000,
                log_every=100,
            ),
        ),
    )
