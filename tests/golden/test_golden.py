"""The shipped weights answer as they always did: a change of structure changes no bit.

`values.json` holds a hash of each case and the machine that made it, and a few of its numbers. On a machine of the same
kind the bits must be the same; elsewhere (another processor or another torch) the numbers must be near. After a change
that is meant to alter results: `python tests/golden/test_golden.py`, which lists what differs and writes anew.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from pathlib import Path

import pytest
import torch
from golden_cases import golden_values

VALUES = Path(__file__).with_name("values.json")
NUM_SHOWN = 8


def machine() -> str:
    """What the last bits depend on: torch, its instruction set, and the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {model}"


def measured() -> dict[str, dict]:
    """{case: hash, shape, some numbers spread over it} at one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        values = golden_values(Path(folder))
    return {name: _summary(value) for name, value in values.items()}


def _summary(value: torch.Tensor) -> dict:
    value = value.detach().contiguous() + 0  # zero has no sign
    digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16]
    flat = value.flatten().double()
    index = torch.linspace(0, len(flat) - 1, NUM_SHOWN).long()
    mean = round(float(flat.mean()), 6)
    return {"hash": digest, "shape": list(value.shape), "mean": mean, "some": [round(float(x), 6) for x in flat[index]]}


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    return measured()


def test_no_bit_has_changed(found):
    known = json.loads(VALUES.read_text())
    if known["machine"] != machine():
        pytest.skip(f"made on another machine: {known['machine']}")
    differ = [name for name, case in known["cases"].items() if found[name]["hash"] != case["hash"]]
    assert not differ


def test_numbers_are_as_they_were(found):
    for name, case in json.loads(VALUES.read_text())["cases"].items():
        assert found[name]["shape"] == case["shape"], name
        tolerance = 2 if name == "env.left" else 2e-2
        assert found[name]["mean"] == pytest.approx(case["mean"], abs=tolerance), name


if __name__ == "__main__":
    old = json.loads(VALUES.read_text())["cases"] if VALUES.exists() else {}
    cases = measured()
    print("changed:", sorted(n for n in cases if old.get(n, {}).get("hash") != cases[n]["hash"]))
    VALUES.write_text(json.dumps({"machine": machine(), "cases": cases}, indent=1) + "\n")
