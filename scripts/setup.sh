#!/usr/bin/env bash
# Makes .venv and installs scene4d into it. Sourced by demo.sh and test.sh with the wanted extra as $1.
set -euo pipefail

# Threads that wait sleep: torch and the kernels have a pool each, and where cores are few, spinning ones starve the others.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

fail() { echo "scene4d: $*" >&2; exit 1; }

find_python() {
  for name in python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11 or newer is missing; install it and run this again"
}

make_venv() {
  local extra=$1 stamp
  command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    fail "a C++ compiler is missing; install g++ or clang++ and run this again"
  if [ ! -x .venv/bin/python ]; then
    "$(find_python)" -m venv .venv || fail "python -m venv failed; install the venv module (Debian: python3-venv)"
  fi
  stamp=.venv/.scene4d-$extra
  # Native sources and the package list decide whether an install is out of date; Python files are used in place.
  local want
  want=$(cat pyproject.toml $(find cuda_ext -type f | sort) | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "scene4d: installing into .venv (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extra]" || fail "pip install failed (its reason is above)"
    echo "$want" >"$stamp"
  fi
}
