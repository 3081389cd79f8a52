"""New matter: only where no camera has seen, with new ids, alive from the first predicted step."""

from __future__ import annotations

import torch

from scene4d.dynamics.unseen import hidden_from, visible_pixels
from scene4d.geometry.camera import project


def test_points_in_sight_are_not_hidden(small):
    scene = small.block_scene(num_floor=4000)
    memory = scene.at(float(scene.times[-1]))
    above, below = torch.tensor([[0.2, 0.4, 0.2]]), torch.tensor([[0.2, 0.4, -0.2]])
    outside = torch.tensor([[5.0, 5.0, 0.0]])
    hidden = hidden_from(torch.cat([above, below, outside]), memory, cameras=small.camera())
    assert hidden.tolist() == [False, True, True]


def test_new_matter_is_unseen_new_and_later(small):
    model, cameras = small.world_model(), small.camera()
    scene = small.block_scene(num_floor=4000)
    state = small.observed(model, scene, cameras={"above": cameras[0]})
    future = model.scene(state, model.predict(state, actions=small.some_actions()))
    num_memory = state.memory.num_gaussians
    new = slice(num_memory, None)
    assert future.base.num_gaussians > num_memory
    assert torch.equal(future.base.ids[:num_memory], state.memory.ids)
    assert int(future.base.ids[new].min()) > int(state.memory.ids.max())
    assert future.base.ids.unique().numel() == future.base.num_gaussians
    born = future.base.pick(torch.arange(num_memory, future.base.num_gaussians))
    assert bool(hidden_from(born.means, state.memory, cameras=cameras).all())
    assert float(visible_pixels(born, state.memory, cameras=cameras).max()) < 0.1
    now, later = future.at(float(future.times[0])), future.at(float(future.times[1]))
    assert float(now.opacities[new].max()) == 0.0 and float(later.opacities[new].min()) > 0.0


def test_without_cameras_there_is_no_new_matter(small):
    model = small.world_model()
    state = small.observed(model)
    future = model.scene(state, model.predict(state, actions=small.some_actions()))
    assert future.base.num_gaussians == state.memory.num_gaussians


def test_batched_new_matter_is_padded(small):
    model = small.world_model()
    state = small.observed(model, small.block_scene(num_floor=2000), cameras={"above": small.camera()[0]}).expand(2)
    future = model.scene(state, model.predict(state, actions=small.some_actions().expand(2, -1, -1), seeds=(0, 1)))
    rows = state.memory.num_gaussians
    one = model.scene(state[0], model.predict(state[0], actions=small.some_actions()))
    assert future.base.num_gaussians >= one.base.num_gaussians > rows
    pixels, _ = project(one.base.means[rows:], small.camera().viewmats[0], small.camera().Ks[0])
    assert pixels.isfinite().all()
