"""The one error contract: a failure names the file, the field, what was found, what was expected and how to mend it."""

from __future__ import annotations

EXIT_USAGE, EXIT_INPUT, EXIT_RESOURCE, EXIT_NUMERIC, EXIT_INTERNAL = 2, 3, 4, 5, 6


class Scene4DError(Exception):
    """A failure a user can act on.

    Args:
        problem: what is wrong, in one clause.
        file: the file or folder concerned.
        field: the key, column, tensor or option concerned.
        frame: index of the frame, row or episode concerned.
        found: what was there.
        expected: what should have been there.
        fix: what the user can do about it.
    """

    exit_code = EXIT_INPUT

    def __init__(self, problem: str, *, file=None, field=None, frame=None, found=None, expected=None, fix=None):
        self.problem, self.fix = problem, fix
        self.file = None if file is None else str(file)
        self.field, self.frame, self.found, self.expected = field, frame, found, expected
        super().__init__(self.line())

    @property
    def code(self) -> str:
        """Name of the kind, stable for scripts."""
        return type(self).__name__

    def line(self) -> str:
        """The error on one line: "file: field: problem; fix"."""
        where = [str(part) for part in (self.file, self.field) if part is not None]
        if self.frame is not None:
            where.append(f"frame {self.frame}")
        what = self.problem
        if self.found is not None:
            what += f" (found {self.found}"
            what += f", expected {self.expected})" if self.expected is not None else ")"
        elif self.expected is not None:
            what += f" (expected {self.expected})"
        text = ": ".join([*where, what])
        return " ".join((f"{text}; {self.fix}" if self.fix else text).split())

    def as_dict(self) -> dict:
        """The error as a JSON-ready dictionary with stable keys."""
        keys = ("code", "file", "field", "frame", "found", "expected", "fix", "problem")
        values = {key: getattr(self, key) for key in keys}
        return {k: v if isinstance(v, int | float | str | None) else str(v) for k, v in values.items()}


class DataFormatError(Scene4DError):
    """A file or folder is not in the format it claims."""


class CalibrationError(Scene4DError):
    """Intrinsics or poses are missing or impossible."""


class DepthError(Scene4DError):
    """Depth is missing, in the wrong unit, or almost everywhere invalid."""


class VideoError(Scene4DError):
    """A video cannot be decoded or does not hold what it should."""


class TimestampError(Scene4DError):
    """Times are not increasing, duplicated or out of range."""


class ConfigError(Scene4DError):
    """A setting is unknown, of the wrong type or impossible."""

    exit_code = EXIT_USAGE


class ShapeError(Scene4DError, ValueError):
    """A tensor does not have the shape its name promises."""


class CheckpointError(Scene4DError):
    """Weights are missing, truncated or of another model."""


class GaussianError(Scene4DError):
    """Gaussians hold impossible values."""


class NumericsError(Scene4DError):
    """A loss, gradient or result is not finite."""

    exit_code = EXIT_NUMERIC


class ResourceError(Scene4DError):
    """Memory, disk or a lock is not to be had."""

    exit_code = EXIT_RESOURCE


class SecurityError(Scene4DError):
    """Input wants something unsafe (pickle, a path outside its root); it was not opened."""


class VersionError(Scene4DError):
    """A file was written by a version this one cannot read."""


class EnvError(Scene4DError):
    """The machine or environment lacks something that is needed."""
