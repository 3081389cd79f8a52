"""What an action head sees, as tokens: virtual views of the scene or, for the baselines, the real cameras' images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from scene4d.errors import ConfigError
from scene4d.layers import MLP
from scene4d.policy.virtual_cameras import VIRTUAL_CAMERAS, points_from_views, render_views
from scene4d.types import Frames, Gaussians

POINT_SCALE = 0.25
"""Metres that count as 1 in the network: about half the width of the views that follow the hand."""
FAR = 4.0
"""Places are cut off at so many of these units."""
GROUPS = 4
"""Groups of channels that the stem normalises."""
COUNTS = (
    "width", "heads", "hidden", "encoder_depth", "decoder_depth", "view_size", "num_views", "chunk", "action_dim",
    "num_tasks", "sampler_steps",
)  # fmt: skip
"""Settings of a head that are numbers of something."""


@dataclass(frozen=True)
class ActionHeadConfig:
    """Sizes of an `ActionHead`."""

    width: int = 96
    """Channels of a token."""
    heads: int = 4
    """Attention heads."""
    hidden: int = 192
    """Channels inside a feed-forward layer."""
    encoder_depth: int = 3
    """Blocks over the view tokens."""
    decoder_depth: int = 2
    """Blocks over the action tokens."""
    stem: tuple[int, ...] = (24, 32, 48)
    """Channels of the strided convolutions before the last one, which gives `width`; each halves the image."""
    modality: Literal["virtual_views", "images", "points"] = "virtual_views"
    """What the head sees: virtual views of the scene memory and its forecast, in which it also learns where the hand's
    next keypose is; or, as baselines without a scene, the images of the real cameras, or their points."""
    view_size: int = 64
    """Pixels a side of the views, or of the real cameras' images."""
    crop_radius: float = 0.5
    """Metres from the hand, sideways, beyond which rendered surfaces are masked out: what is rendered there depends on
    where the real cameras stand; 0 = nothing is masked."""
    num_views: int = len(VIRTUAL_CAMERAS)
    """Views of one instant: the virtual ones, or real cameras."""
    chunk: int = 8
    """Actions predicted at once."""
    action_dim: int = 4
    """Numbers in an action."""
    proprio_dim: int = 4
    """Numbers in the proprioception; the first three are the hand's position in m."""
    goal_conditioned: bool = True
    """Whether it takes a goal: the position that the object of the task should come to."""
    feature_dim: int = 0
    """Channels of the world model's latent tokens, the 3 of their positions included; 0 = no tokens are used."""
    num_tasks: int = 64
    """Rows of the table that task names are hashed into."""
    sampler_steps: int = 5
    """Steps from noise to actions."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "eyes": "modality",
        "reach": "crop_radius",
        "told_goal": "goal_conditioned",
    }
    FORMER_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "modality": {"views": "virtual_views", "pictures": "images"}
    }

    def __post_init__(self) -> None:
        halved = 2 ** (len(self.stem) + 1)
        rules = [
            *((name, getattr(self, name) >= 1, "at least 1") for name in COUNTS),
            ("width", self.width % max(1, self.heads) == self.width % 2 == 0, "even, a multiple of heads"),
            ("stem", all(c > 0 and c % GROUPS == 0 for c in self.stem), f"multiples of {GROUPS}"),
            ("view_size", self.view_size % halved == 0, f"a multiple of {halved}"),
            ("proprio_dim", self.proprio_dim >= 3, "at least 3: the hand's position comes first"),
            ("crop_radius", self.crop_radius >= 0, "0 or more"),
            ("feature_dim", self.feature_dim == 0 or self.feature_dim > 3, "0, or more than 3"),
        ]
        for name, fits, expected in rules:
            if not fits:
                raise ConfigError("does not fit", field=name, found=getattr(self, name), expected=expected)
        num = len(VIRTUAL_CAMERAS)
        if self.sees_scene and self.num_views != num:
            problem = "is not how many virtual views there are"
            raise ConfigError(problem, field="num_views", found=self.num_views, expected=num)

    @property
    def sees_scene(self) -> bool:
        """Whether it sees a scene memory through virtual cameras, not the real cameras."""
        return self.modality == "virtual_views"


def views_for(config: ActionHeadConfig, gaussians: Gaussians, *, hand: Tensor) -> Frames:
    """The virtual views [*b v] that a head has of a scene [*b n], for the hand at [*b 3] m.

    Raises:
        ConfigError: the head sees the real cameras only.
    """
    if not config.sees_scene:
        problem, field = "the head sees real cameras, not scenes", "policy.model.modality"
        found, fix = config.modality, "take weights whose head sees scenes"
        raise ConfigError(problem, field=field, found=found, expected="virtual_views", fix=fix)
    return render_views(gaussians, hand=hand, size=config.view_size)


class ImageEncoder(nn.Module):
    """Each image through strided convolutions to a few patch tokens, each marked with its place, view and instant.

    The colours of the real cameras alone: an image policy.
    """

    channels = 3

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__()
        self.num_views = config.num_views
        layers: list[nn.Module] = []
        channels = self.channels
        for width in config.stem:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, width), nn.SiLU()]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, config.width, 3, stride=2, padding=1))
        side = config.view_size // 2 ** (len(config.stem) + 1)
        self.place = nn.Parameter(torch.randn(side * side, config.width) * 0.1)
        self.view = nn.Parameter(torch.randn(config.num_views, config.width) * 0.1)
        self.instant = nn.Parameter(torch.randn(2, config.width) * 0.1)

    def pixels(self, views: Frames, *, hand: Tensor) -> Tensor:
        """What is known of each pixel, [b v h w c]; positions relative to `hand` [b 3] m."""
        return views.rgb - 0.5

    def levels(self, views: Frames, *, hand: Tensor) -> list[Tensor]:
        """Feature maps of views [b v], each half as fine as the one before: [b*v c h w]."""
        found, x = [], self.pixels(views, hand=hand).flatten(0, 1).movedim(-1, 1)
        for layer in self.stem:
            x = layer(x)
            if isinstance(layer, nn.SiLU):
                found.append(x)
        return [*found, x]

    def forward(self, views: Frames, *, hand: Tensor) -> Tensor:
        """Tokens [b v*s c] of views [b v]; a second set of views is taken as the forecast's."""
        return self.tokens(self.levels(views, hand=hand)[-1], count=views.rgb.shape[1])

    def tokens(self, found: Tensor, *, count: int) -> Tensor:
        """Tokens [b v*s c] of the coarsest level [b*v c h w] of `count` views."""
        tokens = found.flatten(2).mT.unflatten(0, (-1, count)) + self.place  # [b v s c]
        index = torch.arange(count, device=tokens.device)
        mark = self.view[index % self.num_views] + self.instant[index // self.num_views]  # [v c]
        return (tokens + mark[:, None]).flatten(1, 2)  # [b v*s c]


class ViewEncoder(ImageEncoder):
    """The same for rendered views, whose pixels hold colour, position and coverage."""

    channels = 7

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__(config)
        self.crop_radius = config.crop_radius

    def pixels(self, views: Frames, *, hand: Tensor) -> Tensor:
        """Colour, position and coverage [b v h w 7]; empty beyond the crop radius."""
        points = points_from_views(views, hand)  # [b v h w 3]
        known = torch.cat([views.rgb, points / POINT_SCALE, views.known_alpha[..., None]], -1)
        if self.crop_radius:
            known = known * (points[..., :2].norm(dim=-1, keepdim=True) < self.crop_radius)
        middle = known.new_tensor([0.5, 0.5, 0.5, 0, 0, 0, 0.5])
        return (known - middle).clamp(-FAR, FAR)


class PointEncoder(nn.Module):
    """The coloured points of all cameras through one network and a maximum to a few tokens: a point-cloud policy.

    Source: PointNet (Qi et al. 2017), without its spatial transformers.
    """

    num_tokens = 8
    stride = 2
    """Every so many pixels a row and column become a point."""

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__()
        self.points = MLP([6, 64, 128, 2 * config.width])
        self.tokens = nn.Linear(2 * config.width, self.num_tokens * config.width)

    def forward(self, views: Frames, *, hand: Tensor) -> Tensor:
        """Tokens [b s c] of frames [b v] with depth."""
        thin = (..., slice(None, None, self.stride), slice(None, None, self.stride), slice(None))
        points = points_from_views(views, hand)[thin] / POINT_SCALE  # [b v y x 3]
        features = torch.cat([points.clamp(-FAR, FAR), views.rgb[thin] - 0.5], -1).flatten(1, 3)  # [b n 6]
        measured = (views.known_depth[..., None][thin] > 0).flatten(1, 3)  # [b n 1]
        summary = self.points(features).masked_fill(~measured, -1e4).amax(1)  # [b 2c]
        summary = torch.where(measured.any(1), summary, torch.zeros_like(summary))
        return self.tokens(summary).unflatten(-1, (self.num_tokens, -1))


def encoder_for(config: ActionHeadConfig) -> nn.Module:
    """A new encoder: (views Frames [b v], hand=[b 3]) -> tokens [b s c]."""
    kinds: dict[str, type[nn.Module]] = {"virtual_views": ViewEncoder, "images": ImageEncoder, "points": PointEncoder}
    return kinds[config.modality](config)
