"""Adapters to other projects."""
