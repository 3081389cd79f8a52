#!/usr/bin/env bash
# Searches for files that break a reader: scripts/fuzz.sh [SECONDS each, 60] [TARGET ...]. Needs atheris.
# Targets are tests/fuzz/target_*.py. Inputs are kept in build/fuzz; what breaks a reader is named at the end, belongs
# into tests/fuzz/corpus/TARGET once mended, and makes this script fail.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
python=.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import atheris' 2>/dev/null; then
  echo "scene4d: atheris is not installed (pip install atheris); replaying the corpus instead" >&2
  exec "$python" -m pytest -q tests/fuzz
fi
if [ $# -eq 0 ]; then
  for file in tests/fuzz/target_*.py; do
    name=${file##*/target_}
    set -- "$@" "${name%.py}"
  done
fi
mkdir -p build/fuzz
rm -f build/fuzz/*-crash-*
failed=0
for name in "$@"; do
  echo "scene4d: fuzzing $name for $seconds s" >&2
  OMP_NUM_THREADS=1 "$python" tests/fuzz/explore.py "$name" "$seconds" build/fuzz >"build/fuzz/$name.log" 2>&1 || failed=1
  grep -E 'stat::|^=+ Uncaught|Error' "build/fuzz/$name.log" | tail -8 >&2 || true
done
ls build/fuzz/*-crash-* 2>/dev/null && failed=1
exit "$failed"
