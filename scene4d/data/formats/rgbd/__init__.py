"""Folders of colour and depth pictures with a pose each."""
