"""Windows of different sizes stack without changing what they hold."""

import torch

from scene4d.data.load.scene_window import Window, stack_windows
from scene4d.types import Cameras, Frames, Gaussians


def window(num, *, horizon=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)
    memory = Gaussians(
        means=rand(num, 3), quats=rand(num, 4), scales=rand(num, 3), opacities=rand(num), sh=rand(num, 1, 3),
        extras={"segments": torch.zeros(num, 1)},
    )  # fmt: skip

    def frames(*lead):
        cameras = Cameras(
            viewmats=torch.eye(4).expand(*lead, 4, 4), Ks=torch.eye(3).expand(*lead, 3, 3), width=4, height=4
        )
        return Frames(rgb=rand(*lead, 4, 4, 3), depth=rand(*lead, 4, 4), alpha=None, cameras=cameras)

    return Window(
        memory=memory,
        past_flow=rand(2, num, 3),
        past_flow_valid=torch.ones(2, num, dtype=torch.bool),
        past_actions=rand(2, 4),
        past_proprio=rand(3, 5),
        past_valid=torch.ones(2, dtype=torch.bool),
        actions=rand(horizon, 4),
        proprio=rand(horizon, 5),
        displacement=rand(horizon, num, 3),
        displacement_valid=torch.ones(num, dtype=torch.bool),
        frames=frames(2),
        targets=frames(horizon, 2),
        task=torch.tensor(1),
        time=torch.tensor(0.5),
        reward=rand(horizon),
        success=torch.zeros(horizon),
    )


def test_stacked_windows_hold_the_same_and_mark_what_is_missing():
    small, large = window(5), window(9, seed=1)
    both = stack_windows([small, large])
    assert both.batch_shape == (2,) and both.memory.num_gaussians == 9
    assert (both.memory.ids[0, 5:] == -1).all() and not both.displacement_valid[0, 5:].any()
    assert not both.past_flow_valid[0, :, 5:].any() and (both.displacement[0, :, 5:] == 0).all()
    for i, one in enumerate((small, large)):
        num = one.memory.num_gaussians
        assert torch.equal(both.displacement[i, :, :num], one.displacement)
        assert torch.equal(both.past_flow[i, :, :num], one.past_flow)
        assert torch.equal(both.memory.means[i, :num], one.memory.means)
        assert torch.equal(both.targets.rgb[i], one.targets.rgb)
    assert torch.equal(both[1].actions, large.actions)
