"""The scene memory of an agent: the same while demonstrations are prepared and while a robot runs."""

from __future__ import annotations

import functools

from scene4d.lift.stream.stream import SceneStream, StreamConfig

new_memory = functools.partial(SceneStream, StreamConfig(keep_instants=4, polish=4))
"""Makes an agent's scene memory. Of the past a world model looks at two steps, three instants; what is older goes, so
that an episode may last. Polished half as long as a reconstruction, for speed."""
