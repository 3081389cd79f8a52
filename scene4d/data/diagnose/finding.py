"""What is wrong with a recording, in a form that a person, a script and `convert --fix` can all use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scene4d.data.diagnose.repair.mend import Mend
from scene4d.errors import ResourceError, Scene4DError


@dataclass(frozen=True)
class Finding:
    """One fault, and how to mend it."""

    kind: str
    """Stable word for scripts, such as "depth_unit", "camera_axes", "lag"; or the code of the reader's error."""
    camera: str | None
    """Camera concerned; None = all, or none in particular."""
    field: str
    """What of it: K, pose, depth, rgb, times, ..."""
    found: str
    """What is there."""
    expected: str
    """What should be."""
    fix: str
    """What to do, in words."""
    mends: tuple[Mend, ...] = ()
    """What `scene4d convert --fix` takes to mend it; none where it must be mended at the source."""
    score: tuple[float, float] | None = None
    """Share of the compared pixels on which views agree, before and after the mends."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready with stable keys; fix is the mends' spelling where there are some, else words."""
        score = None if self.score is None else {"before": round(self.score[0], 3), "after": round(self.score[1], 3)}
        return {
            "kind": self.kind,
            "camera": self.camera,
            "field": self.field,
            "found": self.found,
            "expected": self.expected,
            "fix": " ".join(str(m) for m in self.mends) or self.fix,
            "mendable": bool(self.mends),
            "score": score,
        }


def finding_of(error: Scene4DError) -> Finding:
    """What a reader refused.

    Raises:
        ResourceError: `error` is one: it says nothing about the recording.
    """
    if isinstance(error, ResourceError):
        raise error
    where = "" if error.file is None else f" in {error.file}"
    found = "" if error.found is None else f" (found {error.found})"
    return Finding(
        kind=error.code,
        camera=None,
        field=str(error.field or ""),
        found=f"{error.problem}{found}{where}",
        expected="" if error.expected is None else str(error.expected),
        fix=error.fix or "",
    )
