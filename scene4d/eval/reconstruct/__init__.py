"""How good reconstructions are."""
