import json

import pytest

from scene4d import errors
from scene4d.errors import Scene4DError

KINDS = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Scene4DError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_kind_says_where_what_and_how(kind):
    error = kind(
        "is wrong", file="a/b.json", field="fps", frame=3, found=-1, expected="> 0", fix="write\n a positive number"
    )
    assert str(error) == "a/b.json: fps: frame 3: is wrong (found -1, expected > 0); write a positive number"
    assert error.code == kind.__name__ and error.exit_code in (2, 3, 4, 5)
    fields = json.loads(json.dumps(error.as_dict()))
    assert set(fields) == {"code", "file", "field", "frame", "found", "expected", "fix", "problem"}


def test_parts_that_are_not_known_are_left_out():
    assert Scene4DError("is wrong").line() == "is wrong"
    assert Scene4DError("is wrong", expected=3).line() == "is wrong (expected 3)"
    assert Scene4DError("is wrong", found=0, frame=0).line() == "frame 0: is wrong (found 0)"
    assert Scene4DError("x", found=[1, 2]).as_dict()["found"] == "[1, 2]"


def test_shape_errors_are_value_errors_and_exit_codes_are_kept():
    assert issubclass(errors.ShapeError, ValueError)
    assert (errors.ConfigError.exit_code, errors.NumericsError.exit_code, errors.ResourceError.exit_code) == (2, 5, 4)
    assert errors.CalibrationError.exit_code == errors.DataFormatError.exit_code == 3
