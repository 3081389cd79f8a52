"""The recurrent state-space model: laws of world models, exact rest, samples, its loss, and that it learns."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "gaussian_flow"))
import small_world
from world_model_laws import WorldModelLaws

from scene4d.apps.compose.models import load_models, make_models, save_models
from scene4d.apps.verbs.evaluate_forecast import forecasters_of
from scene4d.apps.verbs.options.evaluation import EvalForecastOptions
from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.geometry.rotation import apply_pose
from scene4d.models.categorical import balanced_divergence, divergence, drawn, log_probabilities
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig
from scene4d.models.proprio import ProprioFutures
from scene4d.models.rssm.belief import RSSMConfig
from scene4d.models.rssm.family import RSSMSettings, family
from scene4d.models.rssm.loss import RSSMLossConfig, loss
from scene4d.models.rssm.model import RSSMWorldModel
from scene4d.models.tokens.anchors import AnchorConfig, nearest_skin
from scene4d.models.tokens.frozen_codec import codec_stage
from scene4d.models.tokens.token_windows import TokenWindows, is_moving
from scene4d.text.task_vectors import task_vector
from scene4d.train.checkpoint import load_weights
from scene4d.train.loop import LoopConfig
from scene4d.types import Task

CONFIG = RSSMConfig(width=32, hidden=32, latent=(4, 4), anchors=AnchorConfig(num_anchors=16))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stirred(model: RSSMWorldModel) -> RSSMWorldModel:
    """The model with noise in its weights, so that it moves anchors and every input counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.requires_grad)
        model.network.out.bias[12] += 6.0
    return model.eval()


def fresh_model() -> RSSMWorldModel:
    torch.manual_seed(0)
    return RSSMWorldModel(small_world.PlainCodec(), CONFIG, channels=small_world.CHANNELS, robots=(small_world.ROBOT,))


class TestRSSM(WorldModelLaws):
    def make_model(self):
        return stirred(fresh_model())

    def make_observation(self, kind: int = 0):
        num_block = 48 + 8 * kind
        return small_world.observation(small_world.block_scene(num_block=num_block))


def stored(folder: Path) -> tuple[RSSMWorldModel, Path]:
    """A model with an autoencoder of its own, and the file that it is written to."""
    info = {"context": small_world.ROBOT.as_info(), "step_seconds": 0.025}
    models = make_models({"vae": VAEConfig(num_anchors=16), "rssm": CONFIG}, family="rssm", info=info)
    stirred(models.world)
    save_models(folder / "rssm.safetensors", models, info=models.info, half=False)
    return models.world, folder / "rssm.safetensors"


class TestStoredRSSM(TestRSSM):
    @pytest.fixture
    def model(self, tmp_path):
        return stored(tmp_path)[0]

    def reloaded(self, model, folder):
        return load_models(folder / "rssm.safetensors").world


def test_its_row_stands_beside_ours(tmp_path):
    _, path = stored(tmp_path)
    rows = forecasters_of(fresh_model(), PastStream(), options=EvalForecastOptions(also=(path,)))
    assert [row.name for row in rows] == ["ours", "copy_last", "constant_velocity", "rssm"]
    with pytest.raises(ConfigError, match="twice"):
        forecasters_of(fresh_model(), PastStream(), options=EvalForecastOptions(also=(path, path)))


def test_untrained_everything_rests_exactly():
    model = fresh_model().eval()
    state = model.observe(small_world.observation())
    prediction = model.predict(state, actions=small_world.some_actions())
    moved = apply_pose(prediction.world_from_now, state.anchors.expand(8, -1, -1))
    assert torch.equal(moved, state.anchors.expand(8, -1, -1))
    scene = model.scene(state, prediction)
    assert torch.equal(scene.at(float(scene.times[-1])).means, state.gaussians.means)


def test_samples_differ_and_stay_when_others_join_them():
    model = stirred(fresh_model())
    state, actions = model.observe(small_world.observation()), small_world.some_actions()
    batch = lambda seeds: model.predict(state.expand(3), actions=actions.expand(3, -1, -1), seeds=seeds).world_from_now
    one, two = batch((7, 1, 2)), batch((7, 8, 9))
    assert torch.equal(one[0], two[0]) and not torch.allclose(one[1], two[1])


def test_draws_are_one_hot_and_follow_their_probabilities():
    shares = torch.tensor([0.7, 0.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    draws = drawn(shares.log().expand(4000, 1, 3), torch.randn(4000, 1, 3, generator=generator))
    assert torch.equal(draws.sum(-1), torch.ones(4000)) and set(draws.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), shares, atol=0.03, rtol=0)
    assert drawn(shares.log()[None], torch.full((1, 3), -torch.inf)).tolist() == [1, 0, 0]


def test_divergence_is_that_of_categorical_variables():
    a, b = torch.rand(2, 3, 4, 5, 6).log_softmax(-1).unbind(0)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    ).sum(-1)
    torch.testing.assert_close(divergence(a, b), expected)
    assert float(divergence(a, a).abs().max()) < 1e-6
    balanced = balanced_divergence(a, b, prior_share=0.8, free_nats=0.0)
    torch.testing.assert_close(balanced, expected)
    assert float(balanced_divergence(a, a, prior_share=0.8, free_nats=1.0).max()) == 1.0


def test_no_class_is_impossible():
    logs = log_probabilities(torch.tensor([[0.0, 1e4, 5.0, 5.0]]), (2, 2))
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(1, 2))
    assert float(logs.exp().min()) == pytest.approx(0.005)


def test_rows_follow_the_anchor_that_is_like_them():
    model = fresh_model().eval()
    state = model.observe(small_world.observation())
    weights, rows = state.anchored.skin_weights, state.gaussians
    assert float(weights.sum(-1).max()) <= 1 + 1e-5
    dense = torch.zeros(rows.num_gaussians, 16).scatter_add(1, state.anchored.skin_index, weights)
    block = rows.extras["past_flow"][:, 0] > 0.005
    moving = state.anchor_past[:, 0] > 0.005
    along = dense[:, moving].sum(-1)
    assert float(along[block].mean()) > 0.95 and float(along[~block].mean()) < 0.05
    far = state.anchored.replace(gaussians=rows.replace(means=rows.means + 5))
    assert not nearest_skin(far, rgb=state.anchor_rgb, past=state.anchor_past).any()


def pushed(num: int, *, seed: int) -> TokenWindows:
    """Windows [num] in which half of the anchors go along with a hand that its actions move along x at once."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator)
    horizon, past, anchors = CONFIG.horizon, CONFIG.proprio.num_past, 16
    actions = torch.zeros(num, horizon, 16)
    actions[..., 0] = 2 * draw(num, horizon) - 1
    change = torch.zeros(num, horizon, 20)
    change[..., 0] = 0.02 * actions[..., 0].cumsum(1)
    tokens = draw(num, anchors, small_world.CHANNELS)
    held = tokens[..., 0] > 0.5
    motion = torch.zeros(num, horizon, anchors, 6)
    motion[..., 3] = change[..., :1] * held[:, None]
    places = draw(num, anchors, 3)
    return TokenWindows(
        tokens=tokens,
        anchors=places,
        anchor_rgb=draw(num, anchors, 3),
        anchor_past=torch.zeros(num, anchors, 6),
        motion=motion,
        known=torch.ones(num, anchors, dtype=torch.bool),
        rows=places[:, :1],
        row_rgb=places[:, :1],
        row_past=torch.zeros(num, 1, 6),
        skin_index=torch.zeros(num, 1, 4, dtype=torch.int64),
        displacement=motion[..., :1, 3:],
        actions=actions,
        past_actions=torch.zeros(num, past, 16),
        past_proprio=torch.full((num, past + 1, 20), 0.3),
        past_valid=torch.ones(num, past, dtype=torch.bool),
        proprio_change=change,
        task=task_vector(Task("push"), text="words").expand(num, -1),
        reward=change[..., 0],
        success=torch.zeros(num, horizon),
    )


def futures_of(windows: TokenWindows) -> ProprioFutures:
    """What the forecast of the robot's own state learns from."""
    return ProprioFutures(windows.actions, windows.track, windows.proprio_change, windows.task)


def test_it_learns_what_a_hand_takes_along():
    """Imagined from the prior alone, on windows it never saw: a quarter of the error of predicting rest."""
    model, held = fresh_model(), pushed(32, seed=1)
    train = pushed(128, seed=0)
    model.set_statistics([train[i] for i in range(128)])
    model.proprio.set_statistics(futures_of(train))
    model.proprio.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(50):
        value, _ = loss(model, train[torch.randint(0, 128, (16,))])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        _, metrics = loss(model, held, config=RSSMLossConfig(imagined=1.0))
    moving = is_moving(held.motion)[:, -1]
    rest_mm = 1e3 * float(held.motion[:, -1, :, 3:].norm(dim=-1)[moving].mean())
    assert float(metrics["epe_mm"]) < 0.25 * rest_mm
    assert float(metrics["nats"]) == 0  # nothing was seen beyond now


def test_gradients_reach_every_weight():
    model = stirred(fresh_model()).train()
    model.proprio.requires_grad_(False)
    value, metrics = loss(model, pushed(16, seed=2))
    value.backward()
    learned = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, grad in learned if grad is None or not bool(grad.abs().sum() > 0)]
    assert not without
    assert all(bool(torch.isfinite(x)) for x in metrics.values()) and float(metrics["nats"]) > 0


def test_without_a_start_it_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="has no autoencoder") as raised:
        codec_stage(SimpleNamespace(start=""), CONFIG)  # type: ignore[arg-type]  # what the check looks at
    assert "\n" not in raised.value.line()


class PushedRecording:
    """A hand that goes along x."""

    actions, info = torch.ones(40, 4), {"task": "push"}
    proprio = torch.nn.functional.pad(0.01 * torch.arange(40.0)[:, None], (0, 3))


class PushedRun:
    """A run whose two episodes are `pushed` windows and one recording of a hand that goes along x."""

    start, start_digest, device, threads = "tiny", "0", "cpu", 1

    def __init__(self, root: Path, settings: RSSMSettings):
        self.root, self.settings, self.horizon = root, settings, CONFIG.horizon
        self.num_past_actions, self.taken = CONFIG.proprio.num_past, []
        self.recording = PushedRecording()

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def windows(self):
        return self

    def split(self, *, every: int):
        return list(range(24)), list(range(24, 32))

    def moment(self, number: int):
        return self.recording, number

    def robot_of(self, number: int):
        return small_world.ROBOT

    def prepared(self, kind, make, *, folder):
        return pushed(32, seed=0)

    def fresh(self, *, seed: int):
        torch.manual_seed(seed)
        return RSSMWorldModel(GaussianVAE(VAEConfig(channels=8)), CONFIG, channels=8, robots=(small_world.ROBOT,))

    def start_from(self, model, *parts: str):
        self.taken += parts


def test_its_stages_leave_what_the_family_loads(tmp_path):
    few = LoopConfig(steps=2)
    run = PushedRun(tmp_path, RSSMSettings(model=CONFIG, batch_size=4, proprio=few, train=few))
    encoding, training = family(GaussianVAE, VAEConfig).stages(run)
    assert [encoding.name, training.name] == ["vae", "rssm"]
    for stage in (encoding, training):
        run.folder(stage.name).mkdir()
        result = stage.build(run.folder(stage.name))
    assert run.taken == ["vae"] and result["steps"] == 2 and result["held_epe_mm"] > 0
    model = run.fresh(seed=1)
    load_weights(model.codec, run.folder("vae") / "vae.safetensors")
    load_weights(model, run.folder("rssm") / "rssm.safetensors")
    assert float(model.token_mean.abs().max()) > 0 and float(model.scale.count.sum()) > 0
