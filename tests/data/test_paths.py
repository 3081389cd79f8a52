"""Names that come out of files: what leads out or cannot be is refused before the disk is touched."""

from __future__ import annotations

import pytest

from scene4d.data.files.paths import inside_folder
from scene4d.errors import DataFormatError, SecurityError


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/etc/passwd", "nul\0.png"])
def test_a_name_that_leads_out(tmp_path, name):
    with pytest.raises(SecurityError, match="leads out"):
        inside_folder(tmp_path, name, file=tmp_path / "transforms.json")


def test_a_link_that_leads_out(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    with pytest.raises(SecurityError):
        inside_folder(tmp_path / "inside", "link/file.png", file=tmp_path / "transforms.json")


@pytest.mark.parametrize("name", ["é" * 200, "a/" + "x" * 256, "\ud800.png"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(DataFormatError, match="cannot be"):
        inside_folder(tmp_path, name, file=tmp_path / "transforms.json")


def test_what_stays_inside_is_returned(tmp_path):
    assert inside_folder(tmp_path, "a b/ü.png", file=tmp_path / "x.json") == tmp_path / "a b" / "ü.png"
