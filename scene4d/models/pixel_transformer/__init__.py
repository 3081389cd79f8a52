"""The 2D baseline: the same transformer on image patches, to see what carrying a scene in 3D is worth."""
