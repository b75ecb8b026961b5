"""A classifier says what the network of transformers says of the class that is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mutoscope.core.errors import WeightsError
from mutoscope.scorers.classify import Classifier
from mutoscope.scorers.judge import Place
from mutoscope.scorers.pixels import Layout

pytest.importorskip("transformers", reason="needs the extra hub")
from tests.scorers.towers import clips, write_classifier, write_clip


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_the_share_of_a_class_is_the_networks_own_over_frames(kind: str, tmp_path: Path) -> None:
    network = write_classifier(tmp_path, problem_type=kind)
    seen = clips(3, 1)
    with torch.inference_mode():
        logits = [network(Layout.of(tmp_path)(one.frames)).logits for one in seen]
    shares = [(some.softmax(dim=1) if kind.startswith("single") else some.sigmoid())[:, 1].numpy() for some in logits]
    judge = Classifier(str(tmp_path), "nsfw")
    judge.check()
    for one, reduce in ((judge, np.max), (replace(judge, over_frames="mean"), np.mean)):
        for batch in (1, 16):
            rows = one.open(Place(batch=batch))(seen)
            assert [row["nsfw"] for row in rows] == pytest.approx([reduce(some) for some in shares], abs=1e-6)


def test_a_class_or_a_network_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_classifier(tmp_path / "known")
    with pytest.raises(WeightsError, match=r"knows no class 'rude'\. Choose from normal, nsfw, drawing"):
        Classifier(str(tmp_path / "known"), "rude").check()
    write_clip(tmp_path / "tower")
    with pytest.raises(WeightsError, match="no class"):
        Classifier(str(tmp_path / "tower"), "nsfw").check()
