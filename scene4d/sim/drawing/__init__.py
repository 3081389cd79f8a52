"""Worlds simulated by MuJoCo, seen by the cameras of the rig."""
