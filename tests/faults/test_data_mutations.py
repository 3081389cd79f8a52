"""Any one value of a recording's JSON changed to nonsense: it is read, or refused by a Scene4DError."""

import copy
import json

import pytest
from data_fixtures import HEIGHT, WIDTH, K, lerobot_set, rgbd_folder, tree_hash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scene4d.data.detect import open_recordings
from scene4d.errors import EXIT_INPUT, EXIT_RESOURCE, Scene4DError

NONSENSE = [
    None,
    True,
    -1,
    0,
    1e308,
    -1e308,
    1e-320,
    10**400,
    2**64,
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "\0",
    "é" * 300,
]
NONSENSE += [[], {}, [[]], [None], {"a": 1}, [1e308] * 9, [[1e200] * 4] * 4, [[0] * 4] * 4]
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]]


def transforms(folder):
    folder = rgbd_folder(folder)
    for name in ("K.txt", "poses.txt"):
        (folder / name).unlink()
    entry = {"transform_matrix": POSE, "file_path": "images/000.png", "depth_file_path": "depth/000.png", "time": 0.0}
    frames = [entry, {**entry, "file_path": "images/001.png", "depth_file_path": "depth/001.png", "time": 0.5}]
    top = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": WIDTH, "h": HEIGHT, "k1": 0.01}
    (folder / "transforms.json").write_text(json.dumps({**top, "camera_model": "OPENCV", "frames": frames}))
    return folder


SOURCES = {
    "transforms.json": (transforms, "transforms.json"),
    "cameras.json": (lerobot_set, "meta/cameras.json"),
    "info.json": (lerobot_set, "meta/info.json"),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    make, name = SOURCES[request.param]
    folder = make(tmp_path_factory.mktemp("mutations") / "set")
    return folder, folder / name, json.loads((folder / name).read_text())


def places(value, path=()):
    """Every key and index of nested lists and dictionaries."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_nonsense_is_refused_by_name(source, data):
    folder, file, good = source
    value = copy.deepcopy(good)
    *above, last = data.draw(st.sampled_from(sorted(places(good), key=str)))
    target = value
    for key in above:
        target = target[key]
    if isinstance(target, dict) and data.draw(st.booleans()):
        del target[last]
    else:
        target[last] = data.draw(st.sampled_from(NONSENSE))
    file.write_text(json.dumps(value))
    before = tree_hash(folder)
    try:
        for recording in open_recordings(folder, fit=data.draw(st.sampled_from([None, "scale", "crop"])))[:1]:
            json.dumps(dict(recording.info), allow_nan=False)
            recording.read(0, 2)
    except Scene4DError as error:
        assert error.exit_code in (EXIT_INPUT, EXIT_RESOURCE) and error.file and error.problem
    assert tree_hash(folder) == before
