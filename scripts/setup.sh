#!/usr/bin/env bash
# Makes .venv and installs scene4d into it, with uv where it is present and else with pip. Sourced by demo.sh and test.sh.
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

new_venv() {
  local python
  python=$(find_python)
  if command -v uv >/dev/null; then
    uv venv --python "$python" .venv || fail "uv venv failed (its reason is above)"
  else
    "$python" -m venv .venv || fail "python -m venv failed; install the venv module (Debian: python3-venv)"
  fi
}

# Byte code is left to the first import: compiling all of torch takes longer than the demo.
install() {
  if command -v uv >/dev/null; then
    uv pip install --python .venv/bin/python "$@" || fail "uv pip install failed (its reason is above)"
    return
  fi
  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null  # a .venv that uv made
  .venv/bin/python -m pip install --disable-pip-version-check --no-compile "$@" || fail "pip install failed (its reason is above)"
}

# What this build of torch says of CUDA, without importing it: its version, or None.
torch_cuda() {
  .venv/bin/python - <<'PYTHON'
import importlib.util
import pathlib
import runpy

torch = pathlib.Path(importlib.util.find_spec("torch").origin)
print(runpy.run_path(str(torch.with_name("version.py")))["cuda"])
PYTHON
}

# make_venv EXTRA [cuda]: EXTRA is an extra of pyproject.toml, or empty. `cuda` asks for the CUDA kernels; else they are
# built where torch can call them.
make_venv() {
  local extra=$1 asked=${2:-} sum have name kernels=OFF
  command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    fail "a C++ compiler is missing; install g++ or clang++ and run this again"
  [ -x .venv/bin/python ] || new_venv
  # Native sources and the package list decide whether an install is out of date; Python files are used in place.
  sum=$(cat pyproject.toml $(find cuda_ext -type f | sort) | cksum)
  for name in "$extra" dev; do
    have=$(cat ".venv/.scene4d-$name" 2>/dev/null || true)
    if [ "$have" = "$sum $asked" ] || [ "$have" = "$sum cuda" ]; then return; fi
  done
  echo "scene4d: installing into .venv (a few minutes the first time)"
  install "$(.venv/bin/python -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(next(line for line in tomllib.load(file)["project"]["dependencies"] if line.startswith("torch")))')"
  [ "$(torch_cuda)" = None ] || kernels=AUTO
  [ "$asked" != cuda ] || kernels=ON
  install -C "cmake.define.S4D_CUDA=$kernels" -e ".${extra:+[$extra]}"
  echo "$sum $asked" >".venv/.scene4d-$extra"
}
