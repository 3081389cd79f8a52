"""The Gaussian VAE: Gaussians to latent tokens with positions, and back."""
