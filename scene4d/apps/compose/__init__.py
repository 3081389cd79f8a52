"""Builders: one file for each object that a verb puts together from several stages."""
