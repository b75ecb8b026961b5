"""Every golden case of a family that is here, within the tolerance that it states."""

from pathlib import Path

import pytest

from tests.parity.runner import Case, components, judge

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/case.json"))
COMPONENTS = components()


@pytest.mark.skipif(not CASES, reason="the golden cases, ../shared/golden, are not here")
@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_outputs_are_those_of_the_published_code(folder: Path) -> None:
    case = Case(folder)
    run = COMPONENTS.get((case.facts["system"], case.facts["component"]))
    if run is None:
        pytest.skip(f"there is no {case.facts['component']} of {case.facts['system']} here yet")
    assert [verdict for verdict in judge(case, run) if not verdict.is_within] == []
