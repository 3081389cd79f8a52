"""Simulated scenes with exact truth: Meta-World behind the fixed camera rig, and an analytic scene."""
