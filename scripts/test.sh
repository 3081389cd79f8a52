#!/usr/bin/env bash
# Sets everything up and runs every test and check. Arguments go to pytest, but for a first --cuda (see demo.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
cuda=
if [ "${1:-}" = --cuda ]; then cuda=cuda; shift; fi
make_venv dev "$cuda"
.venv/bin/ruff check .
.venv/bin/lint-imports
PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright
# Files of tests side by side; a thread of torch that waits leaves its core to the others.
export OMP_WAIT_POLICY=passive
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
