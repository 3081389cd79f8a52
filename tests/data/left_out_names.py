"""What the ledger of a recording or an episode holds of one kind."""

from __future__ import annotations

from scene4d.ledger import left_out


def left_out_names(source, kind: str) -> list[str]:
    """Names of what was left out, of one kind."""
    return [name for entry in left_out(source.info) if entry.kind == kind for name in entry.names]
