"""Robots: what actions and states mean, and their place in the inputs of networks."""
