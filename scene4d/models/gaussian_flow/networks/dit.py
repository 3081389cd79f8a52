"""The denoiser: a transformer over anchors and steps, modulated by actions, causal in time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.layers import MLP, Block, RMSNorm, Rotary, causal_mask, modulate, zero_
from scene4d.models.flow import step_features
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion
from scene4d.models.instants import TIME_FEATURES, Steps
from scene4d.models.proprio import RobotCondition
from scene4d.models.tokens.motion_estimate import MotionEstimate
from scene4d.models.tokens.scene_tokens import ANCHOR_FEATURES, STEP_FEATURES, SceneTokens
from scene4d.robot.slots import Slots
from scene4d.text.task_vectors import TextEncoding, task_channels

MOTION_CHANNELS = 6
CONDITION_TOKENS = 4
"""Tokens that the condition of a step is cut into where it is attended to."""


@dataclass(frozen=True)
class DiTConfig:
    """Size of the denoiser."""

    width: int = 128
    """Channels of a token inside."""
    depth: int = 4
    """Blocks; spatial and temporal ones take turns, so an even number."""
    num_heads: int = 4
    """Attention heads."""
    hidden: int = 256
    """Channels inside the feed-forward of a spatial block; a temporal one has half."""
    condition: int = 128
    """Channels of the condition that modulates a step."""
    cross_attention: bool = False
    """Let the anchors attend to the condition instead of being modulated by it: for the ablation."""
    timed: bool = False
    """Be given how long the steps are, to take steps of several lengths."""
    known_futures: bool = False
    """Be given motion that is known beforehand, and go without actions where they are absent."""


class DiT(nn.Module):
    """Alternating attention: among the anchors of one step (rotary in x, y, z), along the steps of one anchor (causal).

    The observed tokens of now are step 0 of the temporal attention, so every future step can look at them; step i is
    modulated by the noise level and by what actions 0..i do, never by a later action.
    Source: DiT (Peebles and Xie 2023) for adaLN-zero.
    """

    def __init__(self, config: DiTConfig, *, channels: int, proprio_width: int, slots: Slots, text: TextEncoding):
        super().__init__()
        self.config = config
        self.precision = torch.float32
        """What the blocks multiply in while nothing is trained; bfloat16 is faster where the machine knows it."""
        self.embed_static = MLP([channels + ANCHOR_FEATURES, config.width, config.width])
        self.embed_step = nn.Linear(MOTION_CHANNELS + STEP_FEATURES, config.width)
        self.observed = nn.Parameter(torch.zeros(config.width))
        features = slots.num_actions * 2 + slots.num_proprio * 2 + task_channels(text) + proprio_width + 32 + 16
        self.condition = MLP([features, config.condition, config.condition])
        self.blocks = nn.ModuleList(self._block(number) for number in range(config.depth))
        head = config.width // config.num_heads
        self.rotary_space = Rotary(head, wavelengths=[(0.08, 3.0)] * 3)
        self.rotary_time = Rotary(head, wavelengths=[(2.5, 40.0)])
        self.norm = RMSNorm(config.width, elementwise_affine=False)
        self.final = zero_(nn.Linear(config.condition, 2 * config.width))
        self.out = zero_(nn.Linear(config.width, 2 * MOTION_CHANNELS + 3))
        self.outcome = nn.Linear(config.width, 3)
        # What starts at zero changes nothing of a model that has it, until it is trained.
        if config.timed:
            self.embed_time = zero_(nn.Linear(TIME_FEATURES, config.condition))
        if config.known_futures:
            self.embed_known = zero_(nn.Linear(MOTION_CHANNELS + 1, config.width))
            self.absent = nn.Parameter(torch.zeros(config.condition))

    def _block(self, number: int) -> Block:
        """Spatial where the number is even, else temporal: few steps to mix, so half the feed-forward serves."""
        c = self.config
        sizes: dict[str, int] = {"condition_dim": c.condition}
        if c.cross_attention:
            sizes = {} if number % 2 else {"context_dim": c.condition // CONDITION_TOKENS}
        return Block(c.width, num_heads=c.num_heads, hidden=c.hidden // (1 + number % 2), **sizes)

    def forward(
        self,
        noisy: Tensor,
        levels: Tensor,
        *,
        scene: SceneTokens,
        given: RobotCondition,
        scale: Tensor,
        steps: Steps,
        known: KnownMotion | None = None,
    ) -> MotionEstimate:
        """Denoise motion [b h l 6] of a chunk's steps at levels [b].

        Args:
            given: of the steps. scale: [h 6] turns scaled motion into rad and m. known: of models with known_futures.
        """
        num_steps, frames = noisy.shape[1], steps.frames(noisy)
        hand, change = given.proprio[:, :3], given.proprio_change[..., :3]
        near = scene.step_features(hand, change, scale=scale, frames=frames)
        static = self.embed_static(scene.features(hand))  # [b l c]
        x = static[:, None] + self.embed_step(torch.cat([noisy, near], -1))  # [b h l c]
        if known is not None:
            x = x + self.embed_known(known.features)
        x = torch.cat([(static + self.observed)[:, None], x], 1)  # [b 1+h l c]
        condition = self.condition(self._robot_features(levels, given, steps=steps))  # [b 1+h c]
        if self.config.timed:
            condition = condition + self.embed_time(steps.time_features.to(condition))
        if given.absent is not None:
            condition = condition + self.absent * given.absent.to(condition)[:, None, None]
        space = self.rotary_space(scene.anchors)[:, None]  # [b 1 l f 2]
        time = self.rotary_time(torch.arange(num_steps + 1.0, device=x.device)[:, None])  # [1+h f 2]
        mask = causal_mask(num_steps + 1, device=x.device)
        crossed = self.config.cross_attention
        tokens = condition.unflatten(-1, (CONDITION_TOKENS, -1)) if crossed else None  # [b 1+h k c/k]
        plain = self.training or self.precision == torch.float32
        with contextlib.nullcontext() if plain else torch.autocast(x.device.type, dtype=self.precision):
            for i, block in enumerate(self.blocks):
                if i % 2 == 0:
                    x = block(x, None if crossed else condition[:, :, None], rotary=space, context=tokens)
                else:
                    along = None if crossed else condition[:, None]
                    # In one piece: matrix products of turned tensors go row by row.
                    turned = block(x.transpose(1, 2).contiguous(), along, rotary=time, mask=mask)
                    x = turned.transpose(1, 2).contiguous()
        x = self.norm(x[:, 1:].to(noisy.dtype))  # [b h l c]
        if not crossed:
            shift, gain = self.final(nn.functional.silu(condition[:, 1:, None])).chunk(2, -1)
            x = modulate(x, shift=shift, scale=gain)
        clean, log_var, gate, share = self.out(x).split([MOTION_CHANNELS, MOTION_CHANNELS, 1, 2], -1)
        # Two motions that an anchor often shares in: going on as before, and going along with the hand.
        coasting, move = scene.simple_motions(change, scale=scale, frames=frames)
        along = share[..., :1] * coasting + share[..., 1:] * move  # [b h l 3]
        clean = clean + nn.functional.pad(along, (MOTION_CHANNELS - 3, 0))
        outcome = self.outcome(x.mean(-2))  # [b h 3]
        return MotionEstimate(motion=clean, gate=gate[..., 0] - 1.0, log_var=log_var - 2.0, outcome=outcome)

    def _robot_features(self, levels: Tensor, given: RobotCondition, *, steps: Steps) -> Tensor:
        """[b 1+h f]: for now and each step the action that leads to it, their sum, proprio, level and step number."""
        gaps = None if steps.single else torch.tensor(steps.gaps, device=levels.device)
        led, numbered = step_features(levels, given.actions, last_action=given.last_action, gaps=gaps)
        change = nn.functional.pad(given.proprio_change, (0, 0, 1, 0)) / 0.05
        hidden = nn.functional.pad(given.hidden, (0, 0, 1, 0))
        fixed = torch.cat([given.proprio, given.task], -1)[:, None].expand(-1, led.shape[1], -1)
        return torch.cat([led, change, fixed, hidden, numbered], -1)
