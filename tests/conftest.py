"""Check every annotation of the package while tests run, shapes of tensors too, and keep the tests deterministic."""

from jaxtyping import install_import_hook

# Evaluated by jaxtyping as it stands; the tower lets an int pass for a float, as type checkers do.
install_import_hook("mutoscope", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # faster on small tensors, and sums come out the same on any machine

hypothesis.settings.register_profile("mutoscope", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("mutoscope")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered between runs out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUTOSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
