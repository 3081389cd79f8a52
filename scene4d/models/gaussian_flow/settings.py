"""What the Gaussian flow model is built from, and what it asks of its codec."""

from __future__ import annotations

from dataclasses import dataclass, field

from scene4d.errors import ConfigError
from scene4d.models.flow import FlowConfig
from scene4d.models.gaussian_flow.networks.action_denoiser import RECENT, ActionDenoiserConfig
from scene4d.models.gaussian_flow.networks.completion import CompletionConfig
from scene4d.models.gaussian_flow.networks.dit import DiTConfig
from scene4d.models.gaussian_flow.networks.skin_head import SkinConfig
from scene4d.models.instants import prepared_instants
from scene4d.models.proprio import ProprioConfig
from scene4d.models.tokens.anchors import AnchorConfig
from scene4d.robot.slots import Slots
from scene4d.text.task_vectors import TextEncoding


@dataclass(frozen=True)
class DynamicsConfig:
    """What the world model is built from."""

    horizon: int = 8
    """Steps of one chunk, h; longer forecasts chain chunks."""
    strides: tuple[int, ...] = (1,)
    """Frames that a step may be: several lengths need dit.timed."""
    starting_threshold: float = 0.97
    """Probability of moving from which an anchor at rest sets out."""
    moving_threshold: float = 0.5
    """The same for one that has moved."""
    step_seconds: float = 0.025
    """Seconds a step when a scene has a single instant and does not tell."""
    slots: Slots = field(default_factory=Slots)
    """How many numbers of a robot it takes."""
    text: TextEncoding = "words"
    """How a task's text becomes numbers: a hash of its words, one of each of its phrases (verb, object, relation,
    place), or a sentence encoder for each of them (extra [text])."""
    proprio: ProprioConfig = field(default_factory=ProprioConfig)
    """The forecast of the robot's own state."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """How anchors are chosen."""
    skin: SkinConfig = field(default_factory=SkinConfig)
    """The skinning head."""
    intent: ActionDenoiserConfig = field(default_factory=ActionDenoiserConfig)
    """The denoiser of actions."""
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    """The decoder of new Gaussians."""
    dit: DiTConfig = field(default_factory=DiTConfig)
    """The denoiser."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Noise levels in training."""

    @property
    def num_frames(self) -> int:
        """Frames that the longest chunk reaches ahead."""
        return self.horizon * max(self.strides)

    @property
    def num_actions(self) -> int:
        """Actions, one a frame, that the denoiser of actions draws at most."""
        return self.intent.num_actions or self.horizon * min(self.strides)

    @property
    def instants(self) -> tuple[int, ...]:
        """Frames ahead at which the truth is learned from."""
        return prepared_instants(self.horizon, strides=self.strides)

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1 or len(set(self.strides)) < len(self.strides):
            expected = "different numbers of frames, at least 1"
            raise ConfigError("are no strides", field="strides", found=list(self.strides), expected=expected)
        if len(self.strides) > 1 and not self.dit.timed:
            raise ConfigError("need dit.timed = true", field="strides", found=list(self.strides), fix="set dit.timed")
        least = self.horizon * min(self.strides)
        if not least <= self.num_actions <= self.num_frames:
            found, expected = self.num_actions, f"0, or {least}..{self.num_frames}"
            raise ConfigError("is not within the chunks", field="intent.num_actions", found=found, expected=expected)
        if self.proprio.num_past < RECENT:
            found = self.proprio.num_past
            raise ConfigError("is too short", field="proprio.num_past", found=found, expected=f"at least {RECENT}")
