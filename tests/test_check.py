import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene4d.check import check
from scene4d.errors import ShapeError


@given(lead=st.lists(st.integers(0, 3), max_size=3), n=st.integers(0, 4))
def test_names_bind_sizes(lead, n):
    sizes = check(means=(torch.zeros(*lead, n, 3), "*b n 3"), ids=(torch.zeros(*lead, n), "*b n"))
    assert sizes == {"*b": tuple(lead), "n": n}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((4, 2), "n 3"), ((4,), "n 3"), ((4, 3, 1), "n 3"), ((4, 5), "n n"), ((), "*b n"), ((2, 3), "")],
)
def test_wrong_shapes_are_named(shape, spec):
    with pytest.raises(ShapeError) as caught:
        check(means=(torch.zeros(shape), spec))
    assert caught.value.field == "means" and caught.value.found == list(shape) and f"[{spec}]" in caught.value.expected


def test_a_name_means_one_size_in_one_call():
    with pytest.raises(ShapeError, match="n=4"):
        check(means=(torch.zeros(4, 3), "n 3"), quats=(torch.zeros(5, 4), "n 4"))
    with pytest.raises(ShapeError, match="quats"):
        check(means=(torch.zeros(2, 4, 3), "*b n 3"), quats=(torch.zeros(3, 4, 4), "*b n 4"))
    check(means=(torch.zeros(4, 3), "n 3"))
    check(means=(torch.zeros(5, 3), "n 3"))


def test_none_is_passed_over_and_other_things_are_not():
    assert check(depth=(None, "*b h w")) == {}
    with pytest.raises(ShapeError, match="not a tensor"):
        check(depth=([1.0], "n"))
