"""`scene4d doctor` says which formats and devices work here, as rows, and what the others lack."""

from scene4d.apps.verbs import what_works_here
from scene4d.apps.verbs.options.agents import DoctorOptions
from scene4d.apps.verbs.run_doctor import run_doctor, text_of
from scene4d.apps.verbs.what_works_here import FORMATS, formats_here
from scene4d.data.detect import KNOWN


def test_a_format_without_its_library_is_named_with_its_extra(monkeypatch):
    there = what_works_here._imports
    monkeypatch.setattr(what_works_here, "_imports", lambda module: module != "mcap_ros2" and there(module))
    rows = formats_here()
    assert rows["ROS logs (MCAP)"] == {"works": False, "extra": "mcap", "lacking": "mcap_ros2"}
    assert rows["LeRobot v2.0 to v3.0"]["works"] is True
    assert set(rows) == set(FORMATS)


def test_a_reader_that_does_not_load_is_not_called_working(monkeypatch):
    monkeypatch.setitem(FORMATS, "TEST", ("scene4d.no_such_reader", "", ()))
    assert formats_here()["TEST"] == {"works": False, "extra": "none", "lacking": "scene4d.no_such_reader"}


def test_doctor_shows_both_tables_and_keeps_plain_facts():
    result = run_doctor(DoctorOptions())
    assert result["devices"]["cpu"]["works"] and "native kernels" in result["devices"]["cpu"]["with"]
    lines = text_of(result).splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in (*FORMATS, "cpu", "cuda", "mps"))


def test_what_detection_knows_has_a_row():
    names = " ".join(FORMATS)
    for word in ("LeRobot", "transforms.json", "COLMAP", "RLBench", "HDF5", "zarr", "DROID", "AgiBot", "RLDS", "MCAP"):
        assert word in KNOWN and word in names
