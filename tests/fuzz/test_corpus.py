"""Golden files, damaged by a seeded generator, give nothing but Scene4DError, quickly and in little memory.

`scripts/fuzz.sh` looks for further damage for minutes, guided by coverage. What it finds goes to tests/fuzz/corpus/NAME
and is replayed here ever after.
"""

from __future__ import annotations

import random

import pytest
from golden import FOLDER, MEBIBYTES, Target, check_input, load_target, target_names
from peak_memory import peak_growth

ROUNDS = 600
WORDS = [
    b"\0",
    b"\xff" * 4,
    b"nan",
    b"-1",
    b"99999999999",
    b"\x80\0\0\0",
    b"1e999",
    b"null",
    b"[]",
    b"../",
    b"float",
    b"}",
]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` with one to four random edits: bytes and bits changed, stretches cut, doubled, moved, words put in."""
    content = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(content) + 1)
        length = dice.choice([1, 2, 4, 8, 64])
        match dice.randrange(7):
            case 0 if at < len(content):
                content[at] ^= 1 << dice.randrange(8)
            case 1:
                content[at : at + length] = dice.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at : at + dice.choice([0, 1, 4])] = dice.choice(WORDS)
            case 5:
                content = content[:at]
            case _:
                other = dice.randrange(len(content) + 1)
                content[at : at + length] = content[other : other + length]
    return bytes(content)


def test_there_are_targets():
    assert {"ply", "s4d"} <= set(target_names())


@pytest.fixture(params=target_names())
def target(request) -> Target:
    return load_target(request.param)


def test_golden_files_are_accepted(target, tmp_path):
    accepted = [check_input(target, data, tmp_path) for data in target.golden()]
    assert any(accepted) and all(
        check_input(target, target.mended(d), tmp_path) == a for d, a in zip(target.golden(), accepted, strict=True)
    )


def test_damaged_files_raise_only_our_errors(target, tmp_path):
    dice, files = random.Random(0), target.golden()
    accepted = 0
    with peak_growth() as grown:
        for index in range(ROUNDS):
            data = damaged(files[index % len(files)], dice)
            accepted += check_input(target, target.mended(data) if index % 3 else data, tmp_path)
        assert grown() < MEBIBYTES, "MiB more at the highest than before"
    assert 0 < accepted < ROUNDS, "damage of both kinds: harmless and not"


def test_what_was_found_once_stays_mended(target, tmp_path):
    name = target.__name__.removeprefix("target_")
    for path in sorted((FOLDER / "corpus" / name).glob("*")):
        check_input(target, path.read_bytes(), tmp_path)
