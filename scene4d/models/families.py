"""The families of world models, one row each."""

from __future__ import annotations

from scene4d.models.gaussian_flow.family import FAMILY as GAUSSIAN_FLOW
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig
from scene4d.models.pixel_transformer.family import FAMILY as PIXEL_TRANSFORMER
from scene4d.models.rssm.family import family as rssm_on
from scene4d.world.family import Family

FAMILIES: dict[str, Family] = {
    "gaussian_flow": GAUSSIAN_FLOW,
    "pixel_transformer": PIXEL_TRANSFORMER,
    "rssm": rssm_on(GaussianVAE, VAEConfig),
}
