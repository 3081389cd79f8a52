import pytest
import torch

from scene4d.errors import GaussianError, ShapeError
from scene4d.gaussians.edit import concatenate, prune, sanitize, subsample, transform, with_sh_bases
from scene4d.geometry.rotation import compose_pose, invert_pose, matrix_from_quat, normalize_quat
from scene4d.types import Gaussians


def make_set(*batch: int, n: int = 30, k: int = 4, dtype: torch.dtype = torch.float64) -> Gaussians:
    return Gaussians(
        means=torch.randn(*batch, n, 3, dtype=dtype),
        quats=normalize_quat(torch.randn(*batch, n, 4, dtype=dtype)),
        scales=torch.rand(*batch, n, 3, dtype=dtype) + 0.01,
        opacities=torch.rand(*batch, n, dtype=dtype),
        sh=torch.randn(*batch, n, k, 3, dtype=dtype),
        extras={"confidence": torch.rand(*batch, n, 1, dtype=dtype)},
    )


def pose(*batch: int) -> torch.Tensor:
    quats = normalize_quat(torch.randn(*batch, 4, dtype=torch.float64))
    return torch.cat([quats, torch.randn(*batch, 3, dtype=torch.float64)], -1)


@pytest.mark.parametrize("batch", [(), (2,), (1, 3)])
def test_concatenate_keeps_rows_and_ids(batch):
    a, b = make_set(*batch, n=5, k=1), make_set(*batch, n=7, k=9)
    both = concatenate([a, b.replace(extras={**b.extras, "only_b": b.means})])
    assert both.num_gaussians == 12 and both.sh.shape[-2] == 9 and list(both.extras) == ["confidence"]
    assert torch.equal(both.means[..., :5, :], a.means) and torch.equal(both.ids[..., 5:], b.ids)
    assert (both.sh[..., :5, 1:, :] == 0).all() and torch.equal(both.sh[..., :5, :1, :], a.sh)


def test_concatenate_renumbers_but_leaves_empty_slots_empty():
    both = concatenate([make_set(n=3).padded(4), make_set(n=2)], renumber=True)
    assert both.ids.tolist() == [0, 1, 2, -1, 4, 5]


def test_concatenate_refuses_nothing_and_mixed_batches():
    for sets in ([], [make_set(), make_set(2)]):
        with pytest.raises(ShapeError):
            concatenate(sets)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("num_bases", [1, 16])
def test_transform_is_a_group_action(batch, num_bases):
    g, a, b = make_set(*batch, k=num_bases), pose(*batch), pose(*batch)
    one, two = transform(g, compose_pose(a, b)), transform(transform(g, b), a)
    torch.testing.assert_close(one.means, two.means)
    torch.testing.assert_close(matrix_from_quat(one.quats), matrix_from_quat(two.quats))
    torch.testing.assert_close(one.sh, two.sh)
    back = transform(one, invert_pose(compose_pose(a, b)))
    torch.testing.assert_close(back.means, g.means)
    torch.testing.assert_close(back.sh, g.sh)
    assert torch.equal(one.scales, g.scales) and torch.equal(one.ids, g.ids)


def test_one_pose_moves_a_whole_batch():
    g, a = make_set(2), pose()
    torch.testing.assert_close(transform(g, a).means[1], transform(g[1], a).means)


def test_prune_and_subsample_keep_identity():
    g = make_set().padded(40)
    kept = prune(g, min_opacity=0.5)
    assert (kept.opacities >= 0.5).all() and (kept.ids >= 0).all()
    few = subsample(g, 10, seed=3)
    assert few.num_gaussians == 10 and torch.equal(few.ids, few.ids.sort().values) and len(few.ids.unique()) == 10
    assert torch.equal(few.means, g.means[few.ids]) and torch.equal(few.ids, subsample(g, 10, seed=3).ids)
    assert subsample(g, 1000).num_gaussians == 30


def test_with_sh_bases_cuts_and_fills():
    sh = torch.randn(5, 4, 3)
    assert torch.equal(with_sh_bases(sh, 1), sh[:, :1]) and (with_sh_bases(sh, 9)[:, 4:] == 0).all()


def test_sanitize_counts_drops_and_mends():
    g = make_set(n=6, dtype=torch.float32)
    g.means[0, 0], g.scales[1, 2], g.opacities[2], g.sh[3, 0, 0] = float("nan"), -1.0, 1.7, float("inf")
    g.quats[4] = 0
    mended, counts = sanitize(g)
    assert counts == {
        "means_not_finite": 1,
        "sh_not_finite": 1,
        "scales_out_of_range": 1,
        "opacities_out_of_range": 1,
        "quats_zero": 1,
    }
    assert mended.ids.tolist() == [1, 2, 4, 5] and (mended.scales > 0).all() and (mended.opacities <= 1).all()
    assert mended.quats[2].tolist() == [1, 0, 0, 0]
    with pytest.raises(GaussianError):
        sanitize(g, strict=True)
    assert sanitize(make_set())[1] == {}
