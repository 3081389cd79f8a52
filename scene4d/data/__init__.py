"""Recordings in and out: one foreign format a file, all read as Episode."""
