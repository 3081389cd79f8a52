"""Builders: one file for each thing that a verb puts together from several stages."""
