"""Scenes from posed colour pictures alone."""
