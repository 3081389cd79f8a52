import contextlib
import json
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scene4d.errors import DataFormatError, Scene4DError, SecurityError, VersionError
from scene4d.gaussians.s4d.s4d import frame_member, load_s4d, open_s4d, write_s4d
from scene4d.geometry.camera import orbit
from scene4d.geometry.rotation import normalize_quat
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians


def make_scene(*, n=20, m=3, t=4, k=4, residual=True, log_var=True) -> Scene4D:
    base = Gaussians(
        means=torch.randn(n, 3),
        quats=normalize_quat(torch.randn(n, 4)),
        scales=torch.rand(n, 3) + 0.01,
        opacities=torch.rand(n),
        sh=torch.randn(n, k, 3),
        ids=torch.randperm(1000)[:n],
        extras={"confidence": torch.rand(n, 1), "segments": torch.randint(9, (n, 1))},
    )
    motion = Motion(
        anchors=torch.randn(m, 3),
        world_from_rest=torch.cat([normalize_quat(torch.randn(t, m, 4)), torch.randn(t, m, 3)], -1),
        skin_index=torch.randint(m, (n, 2)) if m else torch.zeros(n, 0, dtype=torch.int64),
        skin_weights=torch.rand(n, 2) / 2 if m else torch.zeros(n, 0),
        log_var=torch.randn(t, m, 6) if log_var else None,
    )
    return Scene4D(
        base=base,
        motion=motion,
        alive=torch.rand(n, 2) + torch.tensor([0.0, 1.0]),
        times=torch.arange(t).double() / 3,
        observed=torch.arange(t) < 2,
        residual={"means": torch.randn(t, n, 3)} if residual else None,
        info={"source": "test", "seed": 3, "model": {"name": "x", "steps": [1, 2]}},
    )


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif hasattr(a, "__dataclass_fields__"):
        for name in a.__dataclass_fields__:
            assert_same(getattr(a, name), getattr(b, name))
    elif isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b


SHAPES = [{}, {"residual": False, "log_var": False}, {"m": 0}, {"n": 0}, {"t": 1, "k": 16}, {"t": 0}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip_is_exact(tmp_path, shape):
    scene = make_scene(**shape)
    write_s4d(tmp_path / "a.s4d", scene)
    back = load_s4d(tmp_path / "a.s4d")
    if shape.get("t") == 0:  # with no instant there is nowhere to keep that they could have had these
        scene = scene.replace(motion=scene.motion.replace(log_var=None), residual=None)
    assert_same(scene, back)


def test_batches_of_samples_round_trip(tmp_path):
    scene = Scene4D.stack([make_scene(), make_scene()])
    write_s4d(tmp_path / "a.s4d", scene)
    assert_same(scene, load_s4d(tmp_path / "a.s4d"))
    assert torch.equal(open_s4d(tmp_path / "a.s4d").frame(2).means, scene.at(2 / 3).means)


def test_cameras_actions_and_provenance(tmp_path):
    cameras = {"front": orbit(torch.rand(3), radius=1.0, elevation=0.3, num_views=4, width=64, height=48)}
    cameras["one"] = cameras["front"][1]
    actions, spec = torch.randn(3, 2), [{"name": "dx", "unit": "m"}, {"name": "grip", "unit": "1"}]
    write_s4d(tmp_path / "a.s4d", make_scene(), cameras=cameras, actions=actions, action_spec=spec, info={"horizon": 8})
    file = open_s4d(tmp_path / "a.s4d")
    assert_same(cameras, file.cameras)
    assert torch.equal(file.actions, actions) and file.action_spec == spec
    assert file.info == {"source": "test", "seed": 3, "model": {"name": "x", "steps": [1, 2]}, "horizon": 8}
    manifest = json.loads(zipfile.ZipFile(tmp_path / "a.s4d").read("manifest.json"))
    assert manifest["num_gaussians"] == 20 and manifest["sh_degree"] == 1 and manifest["num_observed"] == 2
    assert manifest["conventions"]["quaternions"] == "wxyz"
    write_s4d(tmp_path / "b.s4d", make_scene())
    assert open_s4d(tmp_path / "b.s4d").cameras == {} and open_s4d(tmp_path / "b.s4d").actions is None


def test_input_cameras_are_those_named_where_they_stood_then(tmp_path):
    cameras = {"front": orbit(torch.rand(3), radius=1.0, elevation=0.3, num_views=4, width=64, height=48)}
    cameras["one"] = cameras["front"][1]
    write_s4d(tmp_path / "a.s4d", make_scene(), cameras=cameras)
    every = open_s4d(tmp_path / "a.s4d").input_cameras(2)
    assert_same(every, {"front": cameras["front"][2], "one": cameras["one"]})
    write_s4d(tmp_path / "b.s4d", make_scene(), cameras=cameras, info={"input_cameras": ["front", "gone"]})
    assert list(open_s4d(tmp_path / "b.s4d").input_cameras()) == ["front"]


def test_one_frame_is_read_without_the_others(tmp_path):
    scene = make_scene()
    path = tmp_path / "a.s4d"
    write_s4d(path, scene)
    at = path.read_bytes().index(b"PK\x03\x04", zipfile.ZipFile(path).getinfo(frame_member(1)).header_offset) + 200
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 255
    path.write_bytes(damaged)
    file = open_s4d(path)
    for index in (0, 2, 3):
        assert_same(file.frame(index), scene.at(float(scene.times[index])))
    assert_same(file.base(), scene.base)
    assert_same(file.scene(frames=[2, 3]).motion.world_from_rest, scene.motion.world_from_rest[2:])
    with pytest.raises(DataFormatError):
        file.frame(1)
    with pytest.raises(DataFormatError, match="no such frame"):
        file.frame(4)


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    scene = make_scene()
    for name in ("a", "b"):
        write_s4d(tmp_path / f"{name}.s4d", scene)
    assert (tmp_path / "a.s4d").read_bytes() == (tmp_path / "b.s4d").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_s4d(tmp_path / "a.s4d", make_scene())
    before = (tmp_path / "a.s4d").read_bytes()
    with pytest.raises(DataFormatError, match="JSON"):
        write_s4d(tmp_path / "a.s4d", make_scene(), info={"bad": float("nan")})
    assert (tmp_path / "a.s4d").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def rewrite(path, *, change=lambda manifest: None, members=(), compression=zipfile.ZIP_STORED) -> None:
    """The archive again with a changed manifest and further members."""
    with zipfile.ZipFile(path) as archive:
        content = {i.filename: archive.read(i) for i in archive.infolist()}
    manifest = json.loads(content["manifest.json"])
    change(manifest)
    content["manifest.json"] = json.dumps(manifest).encode()
    content.update(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"change": lambda m: m.update(version=99)}, VersionError),
        ({"change": lambda m: m.update(format="zip")}, DataFormatError),
        ({"change": lambda m: m.update(num_frames=10**9)}, DataFormatError),
        ({"change": lambda m: m.update(num_frames=-1)}, DataFormatError),
        ({"change": lambda m: m.update(members=[])}, DataFormatError),
        ({"change": lambda m: m.pop("info")}, DataFormatError),
        ({"change": lambda m: m["members"].pop("base.safetensors")}, DataFormatError),
        ({"change": lambda m: m["members"]["base.safetensors"].update(sha256="0" * 64)}, DataFormatError),
        ({"members": {"../evil.txt": b"x"}}, SecurityError),
        ({"members": {"/etc/evil": b"x"}}, SecurityError),
        ({"members": {"frames/../../evil": b"x"}}, SecurityError),
        ({"members": {"frames/9999.safetensors": b"x"}}, DataFormatError),
        ({"members": {"base.safetensors": b"no tensors"}}, DataFormatError),
        ({"compression": zipfile.ZIP_DEFLATED}, DataFormatError),
    ],
)
def test_lies_are_refused(tmp_path, change, error):
    path = tmp_path / "a.s4d"
    write_s4d(path, make_scene())
    rewrite(path, **change)
    with pytest.raises(error) as caught:
        load_s4d(path)
    assert str(path) in str(caught.value)


def test_skin_that_points_outside_the_anchors_is_refused(tmp_path):
    scene = make_scene()
    scene.motion.skin_index[3, 1] = 3
    write_s4d(tmp_path / "a.s4d", scene)
    with pytest.raises(DataFormatError, match="skin_index"):
        load_s4d(tmp_path / "a.s4d")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 100])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "a.s4d").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"a\.s4d"):
        open_s4d(tmp_path / "a.s4d")
    with pytest.raises(DataFormatError, match="cannot be read"):
        open_s4d(tmp_path / "none.s4d")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_load_whole_or_give_our_error(tmp_path, data):
    path = tmp_path / "a.s4d"
    torch.manual_seed(0)
    scene = make_scene(n=3, t=2)
    write_s4d(path, scene)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 5]))])
    with contextlib.suppress(Scene4DError):
        assert_same(load_s4d(path).base, scene.base)
