"""New matter in a forecast: new ids, alive from the first predicted step, batched."""

from __future__ import annotations

import torch

from scene4d.models.gaussian_flow.free_space import unseen_rows_of


def model_with_new_matter(small):
    """Rows of all opacities: some to be seen, some too faint."""
    model = small.world_model()
    with torch.no_grad():
        for head in (model.completion.of_anchor, model.completion.of_place):
            head.out.layers[-1].bias.unflatten(0, (-1, 14))[:, 10] = torch.linspace(-6, 2, head.num)
    return model


def test_new_matter_is_new_and_later(small):
    model = model_with_new_matter(small)
    state = small.observed(model)
    future = model.scene(state, model.predict(state, actions=small.some_actions()))
    num_memory = state.gaussians.num_gaussians
    assert torch.equal(future.base.ids[:num_memory], state.gaussians.ids)
    new = future.base.pick(torch.arange(num_memory, future.base.num_gaussians))
    shown = new.ids >= 0
    assert 0 < len(shown) < 16 * 12 + 48 * 32  # the faint ones are gone
    assert int(new.ids[shown].min()) > int(state.gaussians.ids.max())
    assert new.ids[shown].unique().numel() == int(shown.sum())
    assert not new.opacities[~shown].any()
    now, later = future.at(float(future.times[0])), future.at(float(future.times[1]))
    assert float(now.opacities[num_memory:].max()) == 0.0
    assert float(later.opacities[num_memory:][shown].min()) > 0.0


def test_new_matter_on_an_anchor_moves_with_it(small):
    model = model_with_new_matter(small)
    state = small.observed(model)
    forecast = model.predict(state, actions=small.some_actions())
    future = model.scene(state, forecast)
    new = slice(state.gaussians.num_gaussians, None)
    moved = future.flow(float(future.times[1]), float(future.times[-1]))[0][new].norm(dim=-1)
    riding = future.motion.skin_weights[new, 0] > 0
    assert bool(riding.any()) and not bool(riding.all()) and not moved[~riding].any()
    turned = (forecast.world_from_now[-1] - forecast.world_from_now[0]).abs().amax(-1)  # [l]
    assert torch.equal(moved[riding] > 1e-6, turned[future.motion.skin_index[new, 0][riding]] > 1e-6)


def test_batched_scenes_are_the_single_ones(small):
    model = model_with_new_matter(small)
    state, actions = small.observed(model), small.some_actions()
    both = state.expand(2)
    future = model.scene(both, model.predict(both, actions=actions.expand(2, -1, -1), seeds=(0, 1)))
    one = model.scene(state, model.predict(state, actions=actions, seeds=(0,)))
    assert future.base.num_gaussians == one.base.num_gaussians > state.gaussians.num_gaussians
    torch.testing.assert_close(future.base.means[0], one.base.means, atol=1e-5, rtol=1e-4)


def test_cameras_keep_new_matter_out_of_what_they_saw(small):
    """Told of a camera, a forecast has the rows it had without, but for those that the camera would have seen."""
    model, actions, camera = model_with_new_matter(small), small.some_actions(), small.camera()[0]

    def new_matter(**told):
        state = small.observed(model, **told)
        future = model.scene(state, model.predict(state, actions=actions))
        new = future.base.pick(torch.arange(state.gaussians.num_gaussians, future.base.num_gaussians))
        return new.pick(new.ids >= 0), state.gaussians

    (freely, memory), (told, _) = new_matter(), new_matter(cameras={"eye": camera})
    fits = unseen_rows_of(freely, memory=memory, cameras=[camera])
    assert 0 < int(fits.sum()) < len(fits)
    assert torch.equal(told.means, freely.means[fits])
