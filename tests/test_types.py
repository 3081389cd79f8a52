import pytest
import torch

from scene4d.errors import DataFormatError, ShapeError
from scene4d.models.tokens.latent import Latent
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians

BATCHES = [(), (2,), (1, 3)]


def cameras(*batch: int, width: int = 6, height: int = 4) -> Cameras:
    Ks = torch.eye(3).expand(*batch, 3, 3) * torch.tensor([[5.0], [5.0], [1.0]])
    return Cameras(viewmats=torch.eye(4).expand(*batch, 4, 4), Ks=Ks, width=width, height=height)


def frames(*batch: int, width: int = 6, height: int = 4, **extras: torch.Tensor) -> Frames:
    size = (*batch, height, width)
    return Frames(
        rgb=torch.rand(*size, 3),
        depth=torch.rand(size),
        alpha=None,
        cameras=cameras(*batch, width=width, height=height),
        extras=extras,
    )


def gaussians(*batch: int, n: int = 5) -> Gaussians:
    return Gaussians(
        means=torch.randn(*batch, n, 3),
        quats=torch.randn(*batch, n, 4),
        scales=torch.rand(*batch, n, 3),
        opacities=torch.rand(*batch, n),
        sh=torch.randn(*batch, n, 4, 3),
        extras={"link": torch.zeros(*batch, n, 1, dtype=torch.int64)},
    )


def motion(*batch: int, n: int = 5, t: int = 3, m: int = 2) -> Motion:
    return Motion(
        anchors=torch.zeros(*batch, m, 3),
        world_from_rest=torch.zeros(*batch, t, m, 7),
        skin_index=torch.zeros(*batch, n, 2, dtype=torch.int64),
        skin_weights=torch.zeros(*batch, n, 2),
    )


def scene(*batch: int) -> Scene4D:
    return Scene4D(
        base=gaussians(*batch),
        motion=motion(*batch),
        alive=torch.zeros(*batch, 5, 2),
        times=torch.arange(3).double().expand(*batch, 3),
        observed=torch.ones(*batch, 3, dtype=torch.bool),
    )


def latent(*batch: int) -> Latent:
    return Latent(
        tokens=torch.zeros(*batch, 4, 8),
        anchors=torch.zeros(*batch, 4, 3),
        rotations=torch.zeros(*batch, 4, 4),
        present=torch.ones(*batch, 4, dtype=torch.bool),
        ids=torch.arange(4).expand(*batch, 4),
    )


def episode(*batch: int, t: int = 3, **views: Frames) -> Episode:
    return Episode(
        views=views or {"left": frames(*batch, t), "right": frames(*batch, t)},
        times=torch.arange(t).double().expand(*batch, t),
        valid=torch.ones(*batch, t, dtype=torch.bool),
        actions=torch.zeros(*batch, t, 4),
        proprio=torch.zeros(*batch, t, 2),
        segment_poses=torch.zeros(*batch, t, 3, 7),
        info={"task": "x"},
    )


MAKERS = [cameras, frames, gaussians, motion, scene, latent]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batch_axes(make, batch):
    item = make(*batch)
    assert item.batch_shape == batch
    if batch:
        assert item[0].batch_shape == batch[1:]
        assert item[torch.tensor([0])].batch_shape == (1, *batch[1:])
        assert item[:1].batch_shape == (1, *batch[1:]) and item[(0,) * len(batch)].batch_shape == ()
    for too_deep in ((0,) * (len(batch) + 1), ..., (..., 0)):
        with pytest.raises(ShapeError):
            item[too_deep]


@pytest.mark.parametrize("make", MAKERS)
def test_stack_then_index_is_the_identity(make):
    items = [make(), make()]
    both = type(items[0]).stack(items)
    assert both.batch_shape == (2,)
    for index, item in enumerate(items):
        again = both[index]
        seen = []
        item.map(lambda x, seen=seen: (seen.append(x), x)[1])
        back = []
        again.map(lambda x, back=back: (back.append(x), x)[1])
        assert len(seen) == len(back) and all(torch.equal(a, b) for a, b in zip(seen, back, strict=True))


def test_to_moves_floats_only_and_reaches_nested_nouns():
    moved = scene().to(torch.float64)
    assert moved.base.means.dtype == torch.float64 and moved.base.ids.dtype == torch.int64
    assert moved.observed.dtype == torch.bool and moved.base.extras["link"].dtype == torch.int64
    assert scene().to("cpu").motion.skin_index.dtype == torch.int64


def test_detach_cuts_the_graph_everywhere():
    g = gaussians().replace(means=torch.zeros(5, 3, requires_grad=True))
    assert not scene().replace(base=g).detach().base.means.requires_grad


def test_nouns_are_frozen_and_replace_checks_again():
    with pytest.raises(AttributeError):
        gaussians().means = torch.zeros(5, 3)
    with pytest.raises(ShapeError, match="quats"):
        gaussians().replace(quats=torch.zeros(4, 4))


def test_frames_and_cameras_must_have_one_size_and_batch():
    with pytest.raises(ShapeError, match="cameras"):
        frames(2).replace(cameras=cameras(2, width=7))
    with pytest.raises(ShapeError, match="cameras"):
        frames(2).replace(cameras=cameras(3))
    with pytest.raises(ShapeError, match="segments"):
        frames(2, segments=torch.zeros(2, 4, 6))


def test_resized_cameras_see_the_same_rays():
    small, large = cameras(), cameras().resized(12, 8)
    ray = torch.tensor([0.1, 0.2, 1.0])
    assert torch.allclose((large.Ks @ ray)[:2], 2 * (small.Ks @ ray)[:2]) and (large.width, large.height) == (12, 8)


def test_episode_is_indexed_by_time():
    part = episode(t=5)[1:3]
    assert part.batch_shape == (2,) and part.views["left"].batch_shape == (2,) and part.times.tolist() == [1, 2]
    assert episode(2, t=5)[:, 3].views["right"].rgb.shape[0] == 2
    assert part.info == {"task": "x"}


def test_stacked_views_keep_shared_extras_and_one_size():
    mask = torch.zeros(3, 4, 6, 1)
    both = episode(left=frames(3, a=mask, b=mask), right=frames(3, b=mask))
    together = both.stacked()
    assert together.batch_shape == (3, 2) and list(together.extras) == ["b"]
    assert torch.equal(both.stacked(["right"]).rgb[:, 0], both.views["right"].rgb)
    with pytest.raises(DataFormatError, match="top"):
        both.stacked(["top"])
    with pytest.raises(ShapeError, match="size"):
        episode(left=frames(3), right=frames(3, width=8)).stacked()
    with pytest.raises(ShapeError, match=r"views\.left"):
        episode(left=frames(2))


def test_gaussians_of_other_sizes_stack_with_empty_slots():
    both = Gaussians.stack([gaussians(n=3), gaussians(n=5)])
    assert both.means.shape == (2, 5, 3) and both.ids[0].tolist() == [0, 1, 2, -1, -1]
    assert (both.opacities[0, 3:] == 0).all() and (both.scales > 0).all() and (both.quats[0, 3:, 0] == 1).all()
    with pytest.raises(ShapeError):
        gaussians(n=5).padded(3)


@pytest.mark.parametrize("batch", BATCHES)
def test_padding_keeps_rows(batch):
    g = gaussians(*batch, n=3)
    padded = g.padded(6)
    assert torch.equal(padded.means[..., :3, :], g.means) and padded.num_gaussians == 6
    assert g.padded(3) is g


def test_pick_takes_rows_of_one_set():
    g = gaussians()
    assert g.pick(torch.tensor([4, 0])).ids.tolist() == [4, 0]
    assert g.pick(g.ids > 2).ids.tolist() == [3, 4]
    with pytest.raises(ShapeError):
        gaussians(2).pick(torch.tensor([0]))


def test_scene_parts_must_fit():
    with pytest.raises(ShapeError):
        scene().replace(alive=torch.zeros(4, 2))
    with pytest.raises(ShapeError):
        scene().replace(times=torch.zeros(4))
    with pytest.raises(ShapeError):
        scene().replace(motion=motion(n=6))
    with pytest.raises(ShapeError):
        scene().replace(motion=motion().replace(log_var=torch.zeros(3, 1, 6)))


def test_what_cannot_do_without_a_tensor_says_so():
    images = frames(2)
    assert images.known_depth is images.depth
    with pytest.raises(ShapeError, match="alpha"):
        images.known_alpha  # noqa: B018
