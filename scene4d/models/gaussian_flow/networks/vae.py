"""Gaussians <-> Latent: a variational autoencoder over sets of 3D Gaussians.

A few Gaussians are chosen as anchors; each anchor looks at the Gaussians of its cell, in coordinates relative to
itself; anchors look at each other through rotary positions. A token decodes to Gaussians round its anchor, from the
latent alone. Nothing sees an absolute position, so moving the scene moves the anchors and leaves the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.check import check
from scene4d.errors import ConfigError
from scene4d.geometry.neighbours import farthest_points
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.geometry.sh import rgb_from_sh, sh_from_rgb
from scene4d.layers import MLP, Attention, Block, RMSNorm, Rotary, fourier_features
from scene4d.models.tokens.latent import Codec, Latent
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Gaussians

OFFSET_UNIT = 0.1
"""Metres that the networks see as 1."""
OFFSET_BANDS = 5
FEATURE_DIM = 3 * (1 + 2 * OFFSET_BANDS) + 3 + 3 + 6 + 1
ROW_DIM = 3 + 4 + 3 + 1 + 3
"""Numbers of a decoded Gaussian: offset, quaternion, log-scale, opacity, colour."""


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the autoencoder."""

    num_anchors: int = 64
    """Tokens of a scene, when the anchors are not given."""
    gaussians_per_token: int = 48
    """Gaussians that each token decodes to."""
    channels: int = 32
    """Numbers in a token."""
    width: int = 128
    """Channels inside the networks."""
    cell_width: int = 64
    """Channels of a Gaussian inside the encoder."""
    num_heads: int = 4
    """Attention heads."""
    encoder_depth: int = 1
    """Blocks between anchors before the latent."""
    decoder_depth: int = 2
    """Blocks between anchors after the latent."""
    cell_size: int = 48
    """Gaussians of its cell that an anchor looks at; a fuller cell is thinned evenly."""
    cell_queries: int = 4
    """Questions an anchor asks its cell."""
    color_distance_m: float = 0.3
    """Distance that a full difference in one colour channel counts as when anchors and cells are chosen."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ConfigError("must be an even multiple of num_heads", field="width", found=self.width)


@dataclass(frozen=True)
class Cells(TensorStruct):
    """What each anchor sees of the Gaussians nearest to it.

    offset [*b l k 3] m from the anchor; rgb [*b l k 3]; plane [*b l k 6] of the surface; opacity [*b l k 1];
    used [*b l k] bool; anchors [*b l 3] m; anchor_rgb [*b l 3]; present [*b l] bool; ids [*b l] int64.
    Sizes of the Gaussians are left out: they speak of the sensor's resolution, not of the scene.
    """

    offset: Tensor
    rgb: Tensor
    plane: Tensor
    opacity: Tensor
    used: Tensor
    anchors: Tensor
    anchor_rgb: Tensor
    present: Tensor
    ids: Tensor

    SHAPES = shapes(present="*b l")


class GaussianVAE(Codec):
    """Encoder and decoder; latent statistics travel with the weights.

    `latent_mean` and `latent_std` [c] are those of the training set's tokens (`set_statistics`); `normalize` and
    `denormalize` use them. Latents are never clamped or quantised.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig | None = None):
        super().__init__()
        self.config = c = VAEConfig() if config is None else config
        self.rotary = Rotary(c.width // c.num_heads, wavelengths=((0.1, 4.0),) * 3)
        self.gaussian_in = MLP([FEATURE_DIM, c.cell_width, c.cell_width])
        self.questions = nn.Parameter(torch.randn(c.cell_queries, c.cell_width) * 0.5)
        self.cell_attend = Attention(c.cell_width, num_heads=c.num_heads)
        self.cell_out = nn.Linear((c.cell_queries + 1) * c.cell_width, c.width)
        block = lambda: Block(c.width, num_heads=c.num_heads)
        self.encoder = nn.ModuleList([block() for _ in range(c.encoder_depth)])
        latent_out = nn.Linear(c.width, 2 * c.channels)
        self.latent_out = nn.Sequential(RMSNorm(c.width), latent_out)
        self.latent_in = nn.Linear(c.channels, c.width)
        self.decoder = nn.ModuleList([block() for _ in range(c.decoder_depth)])
        rows_out = MLP([c.width, 2 * c.width, c.gaussians_per_token * ROW_DIM + 1])
        self.rows_out = nn.Sequential(RMSNorm(c.width), rows_out)
        self.register_buffer("latent_mean", torch.zeros(c.channels))
        self.register_buffer("latent_std", torch.ones(c.channels))
        with torch.no_grad():  # small outputs at first: sharp posteriors, and rows spread round the anchor
            latent_out.bias[c.channels :] = -4.0
            rows_out.last.weight.mul_(0.3)
            rows_out.last.bias[:-1] = spread_rows(c.gaussians_per_token).flatten()
            rows_out.last.bias[-1] = 0.0

    def anchors_of(self, gaussians: Gaussians) -> Tensor:
        """Rows [*b l] of the anchors, farthest points of place and colour; -1 where there are too few Gaussians.

        Depends on the set only, not on the order of its rows; moving the scene changes nothing.
        """
        metric, valid = self._metric(gaussians)
        index = farthest_points(metric, self.config.num_anchors, start=None, mask=valid, distinct=True)
        return index if gaussians.batch_shape else index[0]

    def encode(self, gaussians: Gaussians, *, anchors: Tensor | None = None) -> tuple[Latent, Tensor]:
        """Mean latent (tokens [*b l c]) and log-variance [*b l c] of Gaussians [*b n]; ids < 0 are not looked at.

        Args:
            anchors: rows [*b l] to use instead of `anchors_of(gaussians)`, for example those carried from before.
        """
        anchors = self.anchors_of(gaussians) if anchors is None else anchors
        return self.encode_cells(self.cells_of(gaussians, anchors))

    def cells_of(self, gaussians: Gaussians, anchors: Tensor) -> Cells:
        """What the anchors, rows [*b l] of Gaussians [*b n], see: the part of encoding that has nothing to learn."""
        check(ids=(gaussians.ids, "*b n"), anchors=(anchors, "*b l"))
        batch = gaussians.batch_shape
        flat = gaussians.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]))  # [b n ..]
        rows = anchors.reshape(-1, anchors.shape[-1])  # [b l]
        present, rows = rows >= 0, rows.clamp_min(0)
        metric, valid = self._metric(flat)
        index, used = rows_of_cells(metric, rows, valid=valid, size=self.config.cell_size)  # [b l k]
        at, rgb = _take(flat.means, rows), rgb_from_sh(flat.sh)
        cells = Cells(
            offset=_take(flat.means, index) - at[..., None, :],
            rgb=_take(rgb, index),
            plane=_take(_planes(flat), index),
            opacity=_take(flat.opacities[..., None], index),
            used=used & present[..., None],
            anchors=at,
            anchor_rgb=_take(rgb, rows),
            present=present,
            ids=torch.where(present, _take(flat.ids[..., None], rows)[..., 0], -1),
        )
        return cells.map(lambda y: y.reshape(*batch, *y.shape[1:]))

    def encode_cells(self, cells: Cells) -> tuple[Latent, Tensor]:
        """Mean latent (tokens [*b l c]) and log-variance [*b l c] of prepared cells [*b l k]."""
        batch = cells.batch_shape
        flat = cells.map(lambda y: y.reshape(-1, *y.shape[len(batch) :]))  # [b l k ..]
        place = fourier_features(flat.offset / OFFSET_UNIT, num_bands=OFFSET_BANDS, longest=16.0)
        apart = flat.rgb - flat.anchor_rgb[..., None, :]
        seen = torch.cat([place, flat.rgb - 0.5, apart, flat.plane, flat.opacity], -1)  # [b l k f]
        seen = self.gaussian_in(seen)  # [b l k d]
        x = self.questions.expand(*flat.present.shape, -1, -1)  # [b l q d]
        x = self.cell_attend(x, seen, mask=flat.used[..., None, :])  # [b l q d]
        highest = seen.masked_fill(~flat.used[..., None], -1e4).amax(-2)  # [b l d]
        highest = torch.where(flat.used.any(-1, keepdim=True), highest, torch.zeros_like(highest))
        x = self.cell_out(torch.cat([x.flatten(-2), highest], -1))  # [b l d]
        x = self._mix(x, self.encoder, at=flat.anchors, present=flat.present)
        mean, log_var = self.latent_out(x).chunk(2, -1)  # [b l c]
        latent = Latent(
            tokens=mean * flat.present[..., None],
            anchors=flat.anchors,
            rotations=mean.new_tensor([1.0, 0, 0, 0]).expand(*flat.present.shape, 4),
            present=flat.present,
            ids=flat.ids,
        )
        shape = lambda y: y.reshape(*batch, *y.shape[1:])
        return latent.map(shape), shape(log_var)

    def decode(self, latent: Latent) -> Gaussians:
        """Gaussians [*b l*j] round the anchors, from the latent alone; those of absent tokens get id -1, opacity 0.

        Ids are token id * j + number, so a token that is carried along keeps its Gaussians' identity.
        """
        c, batch = self.config, latent.batch_shape
        flat = latent.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]))
        x = self._mix(self.latent_in(flat.tokens), self.decoder, at=flat.anchors, present=flat.present)
        out = self.rows_out(x)  # [b l j*14+1]
        reach = OFFSET_UNIT * out[..., -1:, None].exp()  # [b l 1 1]
        rows = out[..., :-1].unflatten(-1, (c.gaussians_per_token, ROW_DIM))  # [b l j 14]
        offset, quats, log_scale, opacity, color = rows.split((3, 4, 3, 1, 3), -1)
        quats = normalize_quat(quats + quats.new_tensor([1.0, 0, 0, 0]))
        present = flat.present[..., None].expand(opacity.shape[:-1])  # [b l j]
        number = torch.arange(c.gaussians_per_token, device=x.device)
        gaussians = Gaussians(
            means=(flat.anchors[..., None, :] + reach * offset).flatten(1, 2),
            quats=quats.flatten(1, 2),
            scales=(reach * (log_scale - 1.0).exp() + 1e-4).flatten(1, 2),
            opacities=(torch.sigmoid(opacity[..., 0] + 2.0) * present).flatten(1, 2),
            sh=sh_from_rgb(torch.sigmoid(color)).flatten(1, 2),
            ids=torch.where(present, flat.ids[..., None] * c.gaussians_per_token + number, -1).flatten(1, 2),
        )
        return gaussians.map(lambda y: y.reshape(*batch, *y.shape[1:]))

    def sample(self, latent: Latent, log_var: Tensor) -> Latent:
        """A draw from the posterior (reparameterised)."""
        return latent.replace(tokens=latent.tokens + (0.5 * log_var).exp() * torch.randn_like(log_var))

    def set_statistics(self, tokens: Tensor) -> None:
        """Take `latent_mean` and `latent_std` from training tokens [n c]."""
        self.latent_mean.copy_(tokens.mean(0))
        # A channel that the encoder does not use would otherwise be blown up.
        self.latent_std.copy_(tokens.std(0).clamp_min(1e-3))

    def normalize(self, tokens: Tensor) -> Tensor:
        """Tokens [.. c] with zero mean and unit deviation a channel over the training set."""
        return (tokens - self.latent_mean) / self.latent_std

    def denormalize(self, tokens: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        return tokens * self.latent_std + self.latent_mean

    def _metric(self, gaussians: Gaussians) -> tuple[Tensor, Tensor]:
        """Place and colour [b n 6] in m about the set's centre, and which rows count [b n]."""
        if not gaussians.batch_shape:
            gaussians = gaussians.map(lambda x: x[None])
        valid = (gaussians.ids >= 0) & (gaussians.opacities > 0.01)
        if "confidence" in gaussians.extras:
            # Confidence 0 marks the sky shell metres behind everything: nothing stands there, so nothing is coded.
            valid = valid & (gaussians.extras["confidence"][..., 0] > 0)
        weight = valid[..., None].to(gaussians.means)
        centre = (gaussians.means * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1)
        color = rgb_from_sh(gaussians.sh) * self.config.color_distance_m
        return torch.cat([gaussians.means - centre, color], -1).detach(), valid

    def _mix(self, x: Tensor, blocks: nn.ModuleList, *, at: Tensor, present: Tensor) -> Tensor:
        """Tokens [b l d] through self-attention blocks with rotary positions at [b l 3]."""
        table = self.rotary(at - at.mean(-2, keepdim=True))  # [b l f 2]
        for block in blocks:
            x = block(x, mask=present[..., None, :], rotary=table)
        return x


def rows_of_cells(points: Tensor, anchors: Tensor, *, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The rows [b l size] of [b n d] that are nearest to each anchor row [b l], and which of them count [b l size].

    A row belongs to its nearest anchor; a cell with more than `size` rows is thinned evenly by distance.
    """
    centres = _take(points, anchors)  # [b l d]
    distance, nearest = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").min(-1)  # [b n]
    num_anchors = anchors.shape[1]
    nearest = torch.where(valid, nearest, num_anchors)
    far = distance.amax() + 1
    order = (nearest * far.double() + distance).argsort(dim=-1, stable=True)  # [b n]: by cell, then by distance
    counts = torch.zeros(len(points), num_anchors + 1, dtype=torch.int64, device=points.device)
    counts.scatter_add_(1, nearest, torch.ones_like(nearest))
    starts = (counts.cumsum(1) - counts)[:, :-1, None]  # [b l 1]
    counts = counts[:, :-1, None]
    slot = torch.arange(size, device=points.device)
    rank = torch.where(counts > size, slot * counts // size, slot)  # [b l size]
    used = slot < counts
    place = torch.where(used, starts + rank, 0).clamp_max(points.shape[1] - 1)
    return order.gather(1, place.flatten(1)).view_as(place), used


def spread_rows(num: int) -> Tensor:
    """Decoded rows [num 14] whose offsets lie at random in a ball of radius 1, all else 0: where decoders start."""
    rows = torch.zeros(num, ROW_DIM)
    rows[:, :3] = torch.nn.functional.normalize(torch.randn(num, 3), dim=-1) * torch.rand(num, 1)
    return rows


def _planes(gaussians: Gaussians) -> Tensor:
    """Products [b n 6] of the coordinates of each thinnest axis: a plane has no sign."""
    thinnest = gaussians.scales.argmin(-1)[..., None, None].expand(*gaussians.scales.shape[:-1], 3, 1)
    normal = matrix_from_quat(gaussians.quats).gather(-1, thinnest)[..., 0]  # [b n 3]
    return torch.cat([normal * normal, normal * normal.roll(1, -1)], -1)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows [b .. c] of values [b n c] at index [b ..]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).reshape(*index.shape, values.shape[-1])
