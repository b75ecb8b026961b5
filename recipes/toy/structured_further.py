"""Goes on with the run of structured.py from where it was left: the decoder, new latents, then clips.

    mutoscope train recipes/toy/structured_further.py --out runs/structured-further

The two files in the folder `structured` beside this one are unfinished weights, worse than the bundled ones in motion,
size and background (docs/decisions/0001-latents.md). They are here so that a run need not begin anew, and are no part
of the package.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

from mutoscope.train.diffusion import DiffusionObjective, Latents
from mutoscope.train.precompute import Precompute, WorldClips
from mutoscope.train.recipe import Phase, Recipe

HERE = Path(__file__).parent
LEFT = HERE / "structured"  # the weights
OUT = "runs/structured-further"  # the same as --out
FIRST_SEED = 100_000  # scenes that the run before has not seen


def recipe() -> Recipe:
    """Return the run."""
    spec = importlib.util.spec_from_file_location("structured", HERE / "structured.py")
    assert spec is not None and spec.loader is not None
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    phases = {phase.name: phase for phase in before.recipe().phases}
    decoder, clips = phases["decoder"], phases["clips"]
    assert isinstance(decoder, Phase) and isinstance(clips, Phase) and isinstance(clips.objective, DiffusionObjective)
    autoencoder, latents = f"{OUT}/decoder/weights.safetensors", f"{OUT}/latents"
    objective = replace(
        clips.objective,
        data=(Latents(latents, repeat=3, most_things=1), Latents(latents)),
        autoencoder=autoencoder,
    )
    return Recipe(
        name="toy, structured, further",
        phases=(
            replace(decoder, start_from=str(LEFT / "autoencoder.safetensors"), steps=6000),
            Precompute("latents", WorldClips(20_000, first_seed=FIRST_SEED), autoencoder, latents),
            replace(clips, start_from=str(LEFT / "stiv.safetensors"), objective=objective, steps=3000),
        ),
    )
