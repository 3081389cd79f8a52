"""Exports of phones with LiDAR: Polycam, Stray Scanner, Record3D."""
