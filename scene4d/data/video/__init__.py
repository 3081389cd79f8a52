"""Pictures: image files, videos, depth codecs."""
