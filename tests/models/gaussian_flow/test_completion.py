"""New matter: fills what no camera saw, shows nowhere else, rides on its anchors, has new ids."""

from __future__ import annotations

import dataclasses

import torch

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.models.gaussian_flow.networks.completion import Completion, CompletionConfig, completion_loss, joined
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.render.losses import PictureLossConfig, psnr
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians

CONFIG = CompletionConfig(num_places=6, per_place=12, per_anchor=4, width=32, depth=2)


def plate(at: float, *, colour: tuple[float, float, float]) -> Gaussians:
    """An upright square plate of 1 m at x = `at`, seen from the left or the right."""
    grid = torch.linspace(-0.5, 0.5, 12)
    y, z = torch.meshgrid(grid, grid, indexing="ij")
    means = torch.stack([torch.full_like(y, at), y, z], -1).reshape(-1, 3)
    num = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.full((num, 3), 0.05),
        opacities=torch.full((num,), 0.95),
        sh=((torch.tensor(colour) - 0.5) / 0.2820948).expand(num, 1, 3),
    )


def cameras() -> Cameras:
    """[2]: from the left, which the memory saw, and from the right, which it did not."""
    eyes = torch.tensor([[-1.6, 0.0, 0.0], [1.6, 0.0, 0.0]])
    K = intrinsics_from_fov(0.8, width=24, height=24)
    return Cameras(viewmats=look_at(eyes, torch.zeros(2, 3)), Ks=K.expand(2, 3, 3), width=24, height=24)


def tokens_of(memory: Gaussians) -> SceneTokens:
    at = memory.means[:: memory.num_gaussians // 8][:8]
    return SceneTokens(
        tokens=torch.zeros(1, 8, 4), anchors=at[None], rgb=torch.zeros(1, 8, 3), past=torch.zeros(1, 8, 6)
    )


def test_a_fresh_completion_shows_nothing():
    completion = Completion(CONFIG, channels=4)
    memory = plate(0.0, colour=(0.8, 0.1, 0.1))
    new = completion(tokens_of(memory))[0]
    assert float(new.opacities.detach().max()) < 0.02
    assert new.num_gaussians == 8 * 4 + 6 * 12


def test_no_row_is_longer_than_it_may_be():
    """However the weights are: a streak is a long row seen from the side."""
    torch.manual_seed(0)
    completion = Completion(dataclasses.replace(CONFIG, longest=0.02), channels=4)
    with torch.no_grad():
        for parameter in completion.parameters():
            parameter.add_(torch.randn_like(parameter))
    scales = completion(tokens_of(plate(0.0, colour=(0.8, 0.1, 0.1)))).scales
    assert 0.019 < float(scales.detach().max()) <= 0.02


def test_it_learns_the_far_side_and_leaves_the_near_side_alone():
    torch.manual_seed(0)
    memory = plate(0.0, colour=(0.8, 0.1, 0.1))
    true = joined(memory, plate(0.1, colour=(0.1, 0.2, 0.9)))
    with torch.no_grad():
        drawn = render(true, cameras())
        before = render(memory, cameras())
    targets = Frames(
        rgb=drawn.rgb[None], depth=(drawn.depth * (drawn.alpha > 0.5))[None], alpha=None,
        cameras=drawn.cameras.map(lambda x: x[None]),
    )  # fmt: skip
    completion = Completion(CONFIG, channels=4)
    completion.set_places(plate(0.1, colour=(0, 0, 0)).means)
    optimizer = torch.optim.AdamW(completion.parameters(), lr=5e-3)
    batched = memory.map(lambda x: x[None])
    for _ in range(120):
        loss, _ = completion_loss(
            completion, tokens_of(memory), memory=batched, targets=targets, config=PictureLossConfig()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = render(joined(memory, completion(tokens_of(memory))[0]), cameras())
    quality = lambda frames: psnr(frames.rgb, drawn.rgb, mask=drawn.alpha > 0.5).tolist()
    seen, unseen = quality(after)
    assert unseen > quality(before)[1] + 8
    assert seen > min(quality(before)[0], 40) - 1


def test_rows_ride_on_their_anchor_or_stand_still():
    completion = Completion(CONFIG, channels=4)
    index, weights = completion.skin(8, num_candidates=3, like=torch.zeros(1))
    assert index.shape == weights.shape == (8 * 4 + 6 * 12, 3)
    assert torch.equal(index[:32, 0], torch.arange(8).repeat_interleave(4))
    assert weights[:32].sum(-1).eq(1).all() and not weights[32:].any()


def test_joined_sets_keep_ids_apart_and_empty_slots_empty():
    memory, new = plate(0.0, colour=(1, 0, 0)), plate(0.1, colour=(0, 0, 1))
    memory = memory.replace(ids=memory.ids + 50, extras={"confidence": torch.ones(memory.num_gaussians, 1)})
    new = new.replace(ids=torch.where(torch.arange(new.num_gaussians) < 10, new.ids, -1))
    both = joined(memory, new)
    assert torch.equal(both.ids[: memory.num_gaussians], memory.ids)
    added = both.ids[memory.num_gaussians :]
    assert (added[10:] == -1).all() and int(added[:10].min()) > int(memory.ids.max())
    assert added[:10].unique().numel() == 10
    assert not both.extras["confidence"][memory.num_gaussians :].any()
