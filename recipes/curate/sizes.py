"""A first short training on clips of many sizes, straight from the shards of a data set: videos and pictures together.

mutoscope curate FOLDER --out set
mutoscope train recipes/curate/sizes.py --out runs/sizes
mutoscope generate "it moves" --image PICTURE --fit crop --model runs/sizes/clips/weights.safetensors

Beside recipes/curate/train.py, which brings all clips to one size and encodes them once, this one keeps their shapes
and needs no folder of latents, but decodes what it trains on anew at each step. For clips that are seen many times, as
in a small set, that is the slower way; ``short_side_px`` of the curation makes it faster.
"""

from mutoscope.data.batches import BatchSettings
from mutoscope.pipeline import BUNDLED
from mutoscope.train.diffusion import CuratedClips, DiffusionObjective, GivenMix
from mutoscope.train.recipe import Phase, Recipe

DATASET = "set"


def recipe() -> Recipe:
    """Return the run."""
    batches = BatchSettings(tokens=1536, bases=(64,), lengths=(1, 8, 16), fps=8, step_px=16)
    objective = DiffusionObjective(
        data=CuratedClips(DATASET, batches, uncaptioned=True),  # of a set without captions it learns to move alone
        autoencoder=str(BUNDLED / "autoencoder_toy.safetensors"),
        encoder=str(BUNDLED / "words.safetensors"),
        model="stiv/tiny",
        # Channels and width are those of the bundled autoencoder and encoder; a patch of one frame takes pictures.
        overrides=("latent_channels=8", "text_dim=192", "patch_size=[1,2,2]"),
        given=GivenMix(none=0.5, first=0.5),  # from words, and from the first picture
    )
    train = Phase("clips", objective, steps=100, lr=2e-3, warmup_steps=10, ema_decay=0.98)
    return Recipe("First training on many sizes", (train,))
