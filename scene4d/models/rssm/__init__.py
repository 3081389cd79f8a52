"""A recurrent state-space model on the tokens of a Gaussian autoencoder."""
