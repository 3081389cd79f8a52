"""`scene4d doctor --clean FOLDER`: what killed runs left goes, with its size; nothing else does."""

import json

from scene4d.apps.cli import main
from scene4d.apps.verbs.options.agents import DoctorOptions
from scene4d.apps.verbs.run_doctor import run_doctor, text_of
from scene4d.drafts import DRAFT, OWNER, claimed, lock_of
from scene4d.errors import EXIT_USAGE
from scene4d.files import atomic_file


def left_behind(folder):
    """A draft of 1,001 bytes whose writer is dead."""
    draft = folder / "runs" / f".a.s4d.0{DRAFT}"
    draft.mkdir(parents=True)
    (draft / OWNER).write_text("1")
    (draft / "a.s4d").write_bytes(bytes(1000))
    return draft


def test_lists_then_removes_what_nobody_holds(tmp_path, capsys):
    draft = left_behind(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    with claimed(tmp_path / "b"), atomic_file(tmp_path / "b") as living:
        shown = run_doctor(DoctorOptions(clean=tmp_path, dry_run=True))
        assert shown["removed"] == [{"path": str(draft), "bytes": 1001}] and shown["bytes"] == 1001 and draft.exists()
        held = {str(living.parent), str(lock_of(tmp_path / "b"))}
        assert {row["path"] for row in shown["kept"]} == held and "in use" in text_of(shown)
        assert "would be removed: 1, 1,001 bytes" in text_of(shown)
        assert main(["doctor", "--clean", str(tmp_path), "--json"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["removed"] == shown["removed"] and not draft.exists() and living.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine.txt", "runs"]
    assert run_doctor(DoctorOptions(clean=tmp_path))["bytes"] == 0


def test_wrong_folders_and_options(tmp_path, capsys):
    for arguments in (["--dry-run"], ["--clean", str(tmp_path / "nowhere")]):
        assert main(["doctor", *arguments]) == EXIT_USAGE
        assert "--" in capsys.readouterr().err
