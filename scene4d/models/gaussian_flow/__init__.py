"""The world model: a diffusion transformer forecasts how latent tokens and the Gaussians on them move under actions."""
