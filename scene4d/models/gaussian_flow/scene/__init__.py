"""From a scene to anchors and tokens, and from a forecast back to a scene."""
