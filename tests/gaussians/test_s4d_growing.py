"""A .s4d that grows: pieces of a scene, saved at any moment, are the file that the whole scene would have given."""

from __future__ import annotations

import errno
import itertools

import pytest
import torch

from scene4d.errors import DataFormatError, ResourceError, ShapeError, TimestampError
from scene4d.gaussians.s4d import container, s4d_growing
from scene4d.gaussians.s4d.s4d import load_s4d, open_s4d, write_s4d
from scene4d.gaussians.s4d.s4d_growing import GrowingS4D
from scene4d.geometry.camera import orbit
from scene4d.geometry.rotation import normalize_quat
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians

COUNT = 6
BORN = (1, 2, 2)  # first instants at which one more of the anchors moves


def whole_scene() -> Scene4D:
    """30 rows, 3 anchors of which the later ones rest at first, COUNT instants."""
    n, m = 30, len(BORN)
    base = Gaussians(
        means=torch.randn(n, 3),
        quats=normalize_quat(torch.randn(n, 4)),
        scales=torch.rand(n, 3) + 0.01,
        opacities=torch.rand(n),
        sh=torch.randn(n, 1, 3),
        ids=torch.arange(n),
        extras={"confidence": torch.rand(n, 1), "segments": torch.randint(9, (n, 1)), "half": torch.rand(n, 2).half()},
    )
    poses = torch.cat([normalize_quat(torch.randn(COUNT, m, 4)), torch.randn(COUNT, m, 3)], -1)
    for anchor, born in enumerate(BORN):
        poses[:born, anchor] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])
    motion = Motion(
        anchors=torch.randn(m, 3),
        world_from_rest=poses,
        skin_index=torch.randint(m, (n, 2)),
        skin_weights=torch.rand(n, 2) / 2,
    )
    died = torch.where(torch.arange(n) < 20, torch.arange(n) // 5, torch.inf).double()  # 5 rows end at 0, 1, 2, 3 s
    return Scene4D(
        base=base,
        motion=motion,
        alive=torch.stack([torch.zeros(n).double(), died], -1),
        times=torch.arange(COUNT).double(),
        observed=torch.ones(COUNT, dtype=torch.bool),
        info={"model": "test"},
    )


def part(scene: Scene4D, rows: slice, instants: slice, *, anchors: int) -> Scene4D:
    """Some rows and instants, with the first `anchors` anchors."""
    motion = scene.motion
    return scene.replace(
        base=scene.base.pick(torch.arange(scene.base.num_gaussians)[rows]),
        motion=motion.replace(
            anchors=motion.anchors[:anchors],
            world_from_rest=motion.world_from_rest[instants, :anchors],
            skin_index=motion.skin_index[rows],
            skin_weights=motion.skin_weights[rows],
        ),
        alive=scene.alive[rows],
        times=scene.times[instants],
        observed=scene.observed[instants],
    )


def test_a_grown_file_is_the_file_of_the_whole(tmp_path):
    scene = whole_scene()
    cameras = {"left": orbit(torch.zeros(3), radius=1.0, elevation=0.3, num_views=1, width=8, height=6)[0]}
    write_s4d(tmp_path / "whole.s4d", scene, cameras=cameras, info={"task": "t"})
    with GrowingS4D(tmp_path / "grown.s4d", cameras=cameras, info={"task": "t"}) as file:
        file.append(part(scene, slice(0, 5), slice(0, 1), anchors=1))
        file.append(part(scene, slice(5, 15), slice(1, 4), anchors=3))
        file.append(part(scene, slice(15, 15), slice(4, 4), anchors=3))
        assert (file.num_rows, file.num_frames) == (15, 4)
        assert not (tmp_path / "grown.s4d").exists()
        file.save(part(scene, slice(15, 30), slice(4, 6), anchors=3))
    assert (tmp_path / "grown.s4d").read_bytes() == (tmp_path / "whole.s4d").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grown.s4d", "whole.s4d"]  # nothing is left beside it


def test_every_saved_moment_is_a_scene_and_reads_lazily(tmp_path):
    scene, path = whole_scene(), tmp_path / "a.s4d"
    with GrowingS4D(path) as file:
        file.save(part(scene, slice(0, 20), slice(0, 2), anchors=3))
        assert load_s4d(path).base.num_gaussians == 20
        file.append(part(scene, slice(0, 5), slice(0, 2), anchors=3))
        assert open_s4d(path).num_frames == 2  # the last one saved stands until the next
        file.save(part(scene, slice(5, 30), slice(2, 4), anchors=3))
        assert open_s4d(path).num_frames == 4
        for index in range(4):
            torch.testing.assert_close(
                open_s4d(path).frame(index).means, scene.at(float(index)).means, atol=1e-6, rtol=0
            )


def test_pieces_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    scene = whole_scene()
    with GrowingS4D(tmp_path / "a.s4d") as file:
        file.append(part(scene, slice(0, 5), slice(0, 2), anchors=3))
        with pytest.raises(TimestampError):
            file.append(part(scene, slice(5, 10), slice(1, 3), anchors=3))
        other = part(scene, slice(5, 10), slice(2, 3), anchors=3)
        with pytest.raises(ShapeError, match="sh"):
            file.append(other.replace(base=other.base.replace(sh=torch.zeros(5, 4, 3))))
        with pytest.raises(ShapeError, match="anchors"):
            file.append(part(scene, slice(5, 10), slice(2, 3), anchors=2))
        with pytest.raises(ShapeError):
            file.append(other.replace(base=other.base.replace(extras={})))
        with pytest.raises(ShapeError, match="new"):
            file.append(other.replace(base=other.base.replace(extras={**other.base.extras, "x": torch.zeros(5, 1)})))
        assert (file.num_rows, file.num_frames) == (5, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        GrowingS4D(tmp_path / "file" / "a.s4d")


@pytest.mark.parametrize("fails_at", [0, 7, 14])
def test_a_piece_that_was_half_written_leaves_no_trace(tmp_path, monkeypatch, fails_at):
    """The disk is full in the middle of a piece; when it comes again, the file is that of the whole."""
    scene, plain = whole_scene(), s4d_growing._bytes_of
    write_s4d(tmp_path / "whole.s4d", scene)
    pieces = [part(scene, slice(0, 5), slice(0, 1), anchors=1), part(scene, slice(5, 15), slice(1, 4), anchors=3)]
    with GrowingS4D(tmp_path / "grown.s4d") as file:
        for piece in pieces:
            calls = itertools.count()

            def full(values, calls=calls):
                if next(calls) == fails_at:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return plain(values)

            before = (file.num_rows, file.num_frames)
            monkeypatch.setattr(s4d_growing, "_bytes_of", full)
            with pytest.raises(ResourceError, match="the disk is full"):
                file.append(piece)
            monkeypatch.setattr(s4d_growing, "_bytes_of", plain)
            assert (file.num_rows, file.num_frames) == before
            file.append(piece)
        file.save(part(scene, slice(15, 30), slice(4, 6), anchors=3))
    assert (tmp_path / "grown.s4d").read_bytes() == (tmp_path / "whole.s4d").read_bytes()


def test_more_members_than_a_reader_takes_are_not_written(tmp_path, monkeypatch):
    scene = whole_scene()
    monkeypatch.setattr(container, "MAX_MEMBERS", COUNT + 2)  # the base, the instants and the manifest
    write_s4d(tmp_path / "fits.s4d", scene)
    assert load_s4d(tmp_path / "fits.s4d").base.num_gaussians == scene.base.num_gaussians
    monkeypatch.setattr(container, "MAX_MEMBERS", COUNT + 1)
    with pytest.raises(DataFormatError, match="members"):
        load_s4d(tmp_path / "fits.s4d")
    with pytest.raises(ResourceError, match="too many members"):
        write_s4d(tmp_path / "a.s4d", scene)
    assert not (tmp_path / "a.s4d").exists()
