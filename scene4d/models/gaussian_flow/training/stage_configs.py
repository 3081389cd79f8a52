"""What decides how the family is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from scene4d.models.gaussian_flow.loss import LossConfig
from scene4d.models.gaussian_flow.networks.vae import VAEConfig
from scene4d.models.gaussian_flow.networks.vae_loss import VAELossConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.instants import Steps, drawn_steps
from scene4d.render.losses import PictureLossConfig
from scene4d.train.loop import LoopConfig
from scene4d.train.optim import OptimConfig


@dataclass(frozen=True)
class VAEStageConfig:
    """How the autoencoder is trained."""

    model: VAEConfig = field(default_factory=VAEConfig)
    """Sizes; the anchors are those that the world model chooses."""
    loss: VAELossConfig = field(default_factory=VAELossConfig)
    """Weights of the loss."""
    batch_size: int = 6
    """Scenes a step."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """Steps and optimiser."""


def _brief(steps: int, *, lr: float) -> LoopConfig:
    return LoopConfig(steps=steps, optim=OptimConfig(lr=lr, ema_decay=0.99))


@dataclass(frozen=True)
class DynamicsStageConfig:
    """How the world model is trained."""

    model: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Sizes."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss."""
    batch_size: int = 16
    """Windows a step."""
    own_rollout: float = 0.0
    """Share of the steps in the last third of training that begin where the model's forecast of half a chunk led."""
    irregular: float = 0.25
    """Share of the batches whose steps are of any lengths, where the model takes several."""
    num_rows: int = 512
    """Memory Gaussians a window that the displacement loss looks at."""
    proprio: LoopConfig = field(default_factory=lambda: _brief(1200, lr=5e-3))
    """Training of the forecast of the robot's own state, before the rest and cheap beside it."""
    proprio_batch_size: int = 128
    """Moments a step of that."""
    intent: LoopConfig = field(default_factory=lambda: _brief(1000, lr=2e-3))
    """Training of the denoiser of actions."""
    intent_batch_size: int = 32
    """Windows a step of that."""
    completion: LoopConfig = field(default_factory=lambda: _brief(1200, lr=2e-3))
    """Training of the decoder of new Gaussians, after the rest."""
    completion_batch_size: int = 8
    """Windows a step of that."""
    completion_loss: PictureLossConfig = field(default_factory=PictureLossConfig)
    """Its loss."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """Steps and optimiser."""

    def drawn_steps(self, frame_seconds: float, *, reach: int | None = None) -> Steps:
        """The steps of a training batch, by torch's generator; those that end within `reach` frames, by default any."""
        horizon = self.model.horizon
        reach = reach or self.model.num_frames
        strides = [stride for stride in self.model.strides if stride * horizon <= reach]
        return drawn_steps(horizon, strides=strides, irregular=self.irregular, frame_seconds=frame_seconds)


@dataclass(frozen=True)
class GaussianFlowSettings:
    """Both stages."""

    vae: VAEStageConfig = field(default_factory=VAEStageConfig)
    """Autoencoder."""
    dynamics: DynamicsStageConfig = field(default_factory=DynamicsStageConfig)
    """World model."""
