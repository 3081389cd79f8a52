#!/usr/bin/env bash
# Everything that needs a GPU, in one call and without a network: build, tests, race check, gsplat beside it, bench.
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
step module "$PYTHON" - <<'CHECK'
import torch

from scene4d.native import cuda

reason = cuda.why_not(torch.device("cuda", 0))
print(torch.cuda.get_device_name(), reason or "the CUDA kernels are used")
raise SystemExit(bool(reason))
CHECK
step tests "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda -rs tests/native tests/render tests/train
step race_check race_check
step gsplat "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda -rs tests/native/test_cuda.py -k gsplat
LINES_SHOWN=60 step bench "$PYTHON" scripts/bench.py raster --device cuda --threads 1
LINES_SHOWN=60 step bench_gsplat "$PYTHON" - <<'BENCH'
import importlib.util
import json
import sys

sys.path.insert(0, "scripts")
import bench

from scene4d.render.gsplat_backend import render_gsplat

if importlib.util.find_spec("gsplat") is None:
    raise SystemExit(print("gsplat is not installed: skipped"))
bench.render = render_gsplat
for row in bench.raster_rows(cases=list(bench.RASTER_CASES), threads=[1], seconds=1.0, device="cuda"):
    print(json.dumps({**row, "backend": "gsplat"}), flush=True)
BENCH
LINES_SHOWN=60 step kernels "$PYTHON" - <<'PROFILE'
import sys

sys.path.insert(0, "scripts")
import bench
import torch
from torch.profiler import ProfilerActivity, profile

for name in ("1M_1280x720_sh3", "16x2x8k_128x128_sh0"):
    _, both = bench.RASTER_CASES[name].calls("cuda")
    for _ in range(5):
        both()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        for _ in range(10):
            both()
        torch.cuda.synchronize()
    print(name, "10 x forward + backward")
    print(profiled.key_averages().table(sort_by="cuda_time_total", row_limit=20, max_name_column_width=60))
PROFILE
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all steps passed"
