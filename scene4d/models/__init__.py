"""Families of world models, one folder each."""
