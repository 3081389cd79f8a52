#!/usr/bin/env bash
# Sets everything up and runs every test and check. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
make_venv dev
.venv/bin/ruff check .
.venv/bin/lint-imports
PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright
exec .venv/bin/python -m pytest "$@"
