#!/usr/bin/env bash
# Sets up what the demo needs and runs the main job: recorded video -> 4D Gaussians -> forecast -> novel views, flow, actions.
#
#   scripts/demo.sh [--cuda] ...    --cuda builds the CUDA kernels even where torch has no CUDA; the rest goes to `scene4d demo`
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
cuda=
if [ "${1:-}" = --cuda ]; then cuda=cuda; shift; fi
make_venv "" "$cuda"
exec .venv/bin/scene4d demo "$@"
