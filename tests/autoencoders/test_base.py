from hypothesis import given
from hypothesis import strategies as st

from mutoscope.autoencoders.base import nearest_multiple


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_nearest_multiple_is_a_positive_multiple_and_none_is_nearer(value: int, multiple: int) -> None:
    nearest = nearest_multiple(value, multiple)
    assert nearest > 0 and nearest % multiple == 0
    others = (other for other in (nearest - multiple, nearest + multiple) if other > 0)
    assert all(abs(nearest - value) <= abs(other - value) for other in others)
