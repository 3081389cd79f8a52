"""Coverage-guided search for inputs that break a reader: run by scripts/fuzz.sh, needs atheris (pip install atheris).

`python tests/fuzz/explore.py NAME SECONDS FOLDER`: new inputs go to FOLDER/NAME; what breaks it to FOLDER/NAME-crash-*.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in range(3)]

import atheris

with atheris.instrument_imports(include=["scene4d"]):
    from golden import MEBIBYTES, SECONDS, check_input, load_target

    name, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    target = load_target(name)


def main() -> None:
    """Search, beginning with the golden files."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(target.golden()):
        (corpus / f"golden-{index}").write_bytes(data)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)

        def one(data: bytes) -> None:
            # By the input alone, so that what is found can be run again.
            check_input(target, target.mended(data) if len(data) % 3 else data, place)

        options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEBIBYTES + 512}", f"-timeout={int(5 * SECONDS)}"]
        options += [
            "-max_len=65536",
            f"-artifact_prefix={folder / name}-crash-",
            "-print_final_stats=1",
            "-verbosity=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
