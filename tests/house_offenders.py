"""What breaks a rule of `test_house.py` all the same."""

# Signatures that a library calls by position.
FIXED_BY_A_LIBRARY = {
    "scene4d/apps/agent/server/http_server.py:send_error": "http.server",
    "scene4d/native/nearest.py:_backward": "torch.library",
    "scene4d/native/nearest.py:_setup_context": "torch.library",
    "scene4d/native/ops.py:_setup_context": "torch.library",
}

# Modules of networks, whose names begin the names of the tensors in a weights file.
KEYS_IN_WEIGHTS = {
    "scene4d/models/gaussian_flow/model.py:intent",
    "scene4d/policy/head.py:aim",
    "scene4d/policy/head.py:aimed",
}

# Known, to be mended: these sets only shrink.
KNOWN: dict[str, set[str]] = {
    "positional arguments": set(),
    "words": set(),
    "rooms": set(),
    "file names": set(),
    "ignored types": set(),
}
