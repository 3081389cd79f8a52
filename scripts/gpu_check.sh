#!/usr/bin/env bash
# Everything that needs a GPU, in one call and without a network: build, tests, race check, gsplat beside it, bench table.
# Needs python3 (or $PYTHON) with torch for CUDA, scikit-build-core, nanobind, cmake, ninja, pytest, and nvcc.
# Results also go to $OUT (default: out/gpu_check). Ends with an error when any step failed; runs all of them first.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-out/gpu_check}
SITE=${SITE:-$(mktemp -d)}
mkdir -p "$OUT"
failed=()

step() {
  local name=$1
  shift
  echo "== $name"
  if "$@" >"$OUT/$name.log" 2>&1; then tail -n "${LINES_SHOWN:-6}" "$OUT/$name.log"; else
    failed+=("$name")
    tail -n 40 "$OUT/$name.log"
  fi
}

# Into a folder of its own, so that nothing already installed is touched.
build() {
  "$PYTHON" -m pip install --no-index --no-build-isolation --no-deps --upgrade --target "$SITE" \
    --config-settings=cmake.define.S4D_CUDA=ON .
}

race_check() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed: skipped"; return 0; }
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -m pytest -q -p no:cacheprovider \
      "tests/native/test_cuda.py::test_equals_the_cpu[many channels]" || return 1
  done
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || echo "no nvidia-smi"
step build build
# The tests must find the installed copy, not the sources beside them, which have no native module here.
export PYTHONPATH="$SITE:${PYTHONPATH:-}"
ROOT=$PWD
mkdir -p "$SITE/check" && cp -r pyproject.toml tests scripts cuda_ext "$SITE/check/" && cd "$SITE/check" || exit 1
OUT=$(cd "$ROOT" && mkdir -p "$OUT" && cd "$OUT" && pwd)
step module "$PYTHON" -c "import torch; from scene4d.native import cuda; print(torch.cuda.get_device_name(), cuda.why_not(torch.device('cuda', 0)) or 'CUDA kernels are used')"
step tests "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda -rs tests/native tests/render
step race_check race_check
step gsplat "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda -rs tests/native/test_cuda.py -k gsplat
LINES_SHOWN=60 step bench "$PYTHON" scripts/bench.py raster --device cuda
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all steps passed"
