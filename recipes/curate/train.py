"""A first short training on a data set of one's own: seconds on a CPU, to see that all fits together.

mutoscope curate FOLDER --out set
mutoscope train recipes/curate/train.py --out runs/first
mutoscope generate "it moves" --image PICTURE --fit crop --model runs/first/clips/weights.safetensors

It trains the smallest network on clips of a second, 64x64. For another data set, or for more, change a copy of this
file; the latents of each data set lie beside it. recipes/curate/sizes.py trains on clips of all their shapes,
and on pictures, straight from the shards; recipes/toy/stiv.py shows what a longer course is made of.
"""

from mutoscope.pipeline import BUNDLED
from mutoscope.train.diffusion import DiffusionObjective, GivenMix, Latents
from mutoscope.train.precompute import DatasetClips, Precompute
from mutoscope.train.recipe import Phase, Recipe

AUTOENCODER = str(BUNDLED / "autoencoder_toy.safetensors")
ENCODER = str(BUNDLED / "words.safetensors")
DATASET = "set"
LATENTS = f"{DATASET}-latents"  # beside the data set, so that no other one shares it


def recipe() -> Recipe:
    """Return the run."""
    clips = DatasetClips(DATASET, num_frames=8, height=64, width=64, fps=8, crop=True, windows=4)
    objective = DiffusionObjective(
        data=(Latents(LATENTS),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        model="stiv/tiny",
        overrides=("latent_channels=8", "text_dim=192"),  # those of the bundled autoencoder and encoder
        given=GivenMix(none=0.5, first=0.5),  # from words, and from the first picture
    )
    train = Phase("clips", objective, steps=200, batch_size=8, lr=2e-3, warmup_steps=20, ema_decay=0.98)
    return Recipe("First training", (Precompute("latents", clips, AUTOENCODER, LATENTS), train))
