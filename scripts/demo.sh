#!/usr/bin/env bash
# Sets everything up and runs the main job: recorded video -> 4D Gaussians -> forecast -> novel views, flow, actions.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
make_venv dev
exec .venv/bin/scene4d demo "$@"
