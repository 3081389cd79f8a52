#!/usr/bin/env bash
# What happens to scene4d when it is killed, runs for long, or gets too little:
#   scripts/soak.sh kill [--size 200]        SIGKILL at so many random instants over convert, record, reconstruct, export, forecast, train
#   scripts/soak.sh long [--size 20000]      so many steps of training, a quarter of them of the simulator, a tenth requests, a quarter visits of 20 viewers
#   scripts/soak.sh low [--size 1000000]     writes that fail one after another (at most so many), small limits, a full and a read-only disk
#   scripts/soak.sh all                      the three, in their full size
# Each prints a table and ends with 1 where it found harm; --write puts the table into docs/results/reliability.md.
# `kill` takes about 40 minutes on two cores, `long` about an hour, `low` about 10 minutes. --help after a part shows all options.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH=$PWD:$PWD/tests:$PWD/tests/faults:$PWD/tests/env:$PWD/tests/apps OMP_WAIT_POLICY=passive
part=${1:---help}
shift || true
case $part in
  kill) "$python" tests/reliability/kill_matrix.py "$@" ;;
  long) "$python" tests/reliability/long_runs.py "$@" ;;
  low) "$python" tests/reliability/low_resources.py "$@" ;;
  all) for each in kill long low; do bash scripts/soak.sh "$each" "$@"; done ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0" ;;
  *) echo "scene4d: soak.sh: $part is no part; one of: kill long low all" >&2; exit 2 ;;
esac
