"""The bundled text encoder: captions of procedural worlds in English and Chinese, on one CPU core.

mutoscope train recipes/toy/words.py --out runs/words
"""

from mutoscope.train.optim import AdamW
from mutoscope.train.recipe import Phase, Recipe
from mutoscope.train.words import WordsObjective


def recipe() -> Recipe:
    """Return the run."""
    return Recipe(
        name="toy words",
        phases=(
            Phase(
                name="words",
                objective=WordsObjective(),
                steps=2500,
                batch_size=32,
                optimizer=AdamW(beta1=0.9, beta2=0.98),
                lr=1e-3,
                warmup_steps=200,
                schedule="cosine",
                ema_decay=0.998,
                precision="bf16",
            ),
        ),
    )
