#!/usr/bin/env bash
# Remakes the tables of docs/results.
#
#   scripts/results.sh                     lists the names: how long each takes, what it needs
#   scripts/results.sh NAME ...            runs them; `all` runs every one, in this order
#   scripts/results.sh --dry-run NAME ...  prints their commands and runs nothing
#   scripts/results.sh --data FOLDER ...   where the recordings of docs/results/recordings.md are (by default ./recordings)
#
# What a run prints is kept in out/results/NAME.txt. `raster` and `neighbours` also replace their rows in docs/results.
# The other tables are copied from what is printed into docs/results/*.md, with the commit.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=list data=recordings wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) mode=print ;;
    --data) data=${2:?--data needs a folder}; shift ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit ;;
    -*) echo "scene4d: results.sh: $1 is no option; see: scripts/results.sh --help" >&2; exit 2 ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
if [ ${#wanted[@]} -gt 0 ] && [ "$mode" = list ]; then mode=run; fi
if [ ${#wanted[@]} -eq 0 ] && [ "$mode" = print ]; then wanted=(all); fi
quoted=$(printf '%q' "$data")
[ ! -x .venv/bin/python ] || PATH=$PWD/.venv/bin:$PATH
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
names=() failed=()

# One table: NAME TIME NEEDS COMMAND ... ; lists it, prints its commands or runs them, as asked for.
row() {
  local name=$1 minutes=$2 needs=$3
  shift 3
  if [ "$mode" = list ]; then
    printf '%-18s | %s | %s\n' "$name" "$minutes" "$needs"
  elif [ "$mode" = names ]; then
    names+=("$name")
  elif [[ " ${wanted[*]} " == *" $name "* || " ${wanted[*]} " == *" all "* ]]; then
    if [ "$mode" = print ]; then printf '# %s\n' "$name"; printf '%s\n' "$@"; else run "$name" "$@"; fi
  fi
}

run() {
  local name=$1 command log=out/results/$1.txt
  shift
  mkdir -p out/results
  git rev-parse --short HEAD >"$log" 2>/dev/null || : >"$log"
  for command in "$@"; do
    echo "\$ $command" | tee -a "$log"
    if ! bash -c "$command" 2> >(tee -a "$log" >&2) | tee -a "$log"; then
      failed+=("$name")
      return
    fi
  done
  case $name in raster | neighbours) grep '^{' "$log" >"docs/results/$name.jsonl" ;; esac
}

tasks='button-press-v3 door-open-v3 drawer-open-v3'
six="$tasks pick-place-v3 push-v3 reach-v3"
evaluate="scene4d eval policy --tasks $tasks --seeds 2000 2049 --processes 2"
four='left right gripper corner'
rlbench="$quoted/rlbench"
finetune="scene4d train configs/finetune.toml --set 'record.sources=[\"$data/rlbench/episode0\"]'"

tables() {
  # Training
  row train-smoke '36 s' 'extra sim' 'scene4d train configs/smoke.toml'
  row train-tiny '41 min' 'extra sim' 'scene4d train configs/tiny.toml'
  row train-small '90 min, then 30 for the action head' 'extra sim' \
    'scene4d train configs/small.toml --until dynamics' \
    'scene4d train configs/policy.toml --set start=runs/small/dynamics/world.safetensors'
  row train-pixels '96 min on one core, 13 more without train-small' 'extra sim' \
    'scene4d train configs/small.toml --pixels'
  row train-cross '33 min (as train-tiny without its action head)' 'extra sim' \
    'scene4d train configs/tiny.toml --until dynamics --out runs/cross --set dynamics.model.dit.cross_attention=true'
  row train-rssm '12 min after record and cache (13 min, as train-tiny)' 'extra sim' \
    'scene4d train configs/rssm.toml'

  # Forecast: docs/results/forecast.md
  row forecast 'about 4 min on one thread (24 forecasts)' 'extra sim; runs/small/pixels.safetensors (train-pixels)' \
    'scene4d eval forecast --seeds 2000 2001 --robot --pixels-weights runs/small/pixels.safetensors'
  row forecast-rssm 'about 2 min (24 forecasts)' 'extra sim' \
    'scene4d eval forecast --seeds 2000 2001 --also tiny rssm'
  row forecast-128 'about 2 min on one thread (12 forecasts)' 'extra sim' \
    'scene4d eval forecast --seeds 2000 2001 --size 128 --horizons 4 --windows 2'
  row forecast-gripper 'about 2 min on one thread (24 forecasts)' 'extra sim' \
    'scene4d eval forecast --seeds 2000 2001 --inputs left gripper'
  row forecast-checks 'about 4 min on one thread (18 windows, six pasts with two futures, six long rollouts)' 'extra sim' \
    'scene4d eval forecast --seeds 2000 2001 --windows 3 --deep'
  row ablations 'about 3 min on one thread (24 forecasts, seven models)' 'extra sim; runs/cross/weights.safetensors (train-cross)' \
    'python scripts/ablations.py --weights tiny --trained cross_attention=runs/cross/weights.safetensors --seeds 2000 2001'
  row own-robot '10 min on one core, then four forecasts' 'recordings: rlbench' \
    "$finetune 'record.cameras=[\"front\", \"left_shoulder\", \"overhead\"]'" \
    "scene4d eval forecast --episodes $rlbench/episode2 --inputs front left_shoulder --novel overhead \
  --weights runs/finetune/weights.safetensors"

  # Action head: docs/results/policy.md
  row policy 'at most about 85 min (300 rollouts of at most 250 steps at 7.4 Hz, two at once)' 'extra sim' "$evaluate" "$evaluate --turned 20"
  row policy-seeds 'twice 30 min of training, then at most about 85 min (300 rollouts)' 'extra sim' \
    'scene4d train configs/policy.toml --out runs/policy-seed-1 --set policy.train.seed=1' \
    "$evaluate --weights runs/policy-seed-1/weights.safetensors" \
    'scene4d train configs/policy.toml --out runs/policy-seed-2 --set policy.train.seed=2' \
    "$evaluate --weights runs/policy-seed-2/weights.safetensors"
  for input in images points; do
    row "policy-$input" 'not timed (training, then 300 rollouts)' 'extra sim' \
      "scene4d train configs/policy.toml --out runs/$input --set policy.model.modality=$input policy.model.num_views=2" \
      "$evaluate --weights runs/$input/weights.safetensors" \
      "$evaluate --weights runs/$input/weights.safetensors --turned 20"
  done
  row pick-place-push 'at most about 56 min (400 rollouts of at most 150 steps at 7.4 and 11.5 Hz, two at once)' 'extra sim' \
    'scene4d eval policy --tasks pick-place-v3 push-v3 --seeds 2000 2099 --paired --max-frames 150 --processes 2'

  # Planning: docs/results/planning.md
  row plan 'about 26 min of plans on one thread, and 60 experts' 'extra sim' 'scene4d eval plan'

  # Reconstruction: docs/results/reconstruction.md
  row rgbd '0.9 s a frame; 4 min more for each --fit' 'recordings: box, kitchen, rlbench' \
    "scene4d reconstruct $quoted/box -o out/results/box.s4d --holdout 4" \
    "scene4d reconstruct $quoted/box -o out/results/box-fit.s4d --holdout 4 --fit" \
    "scene4d reconstruct $quoted/kitchen -o out/results/kitchen.s4d --holdout 4" \
    "scene4d reconstruct $quoted/kitchen -o out/results/kitchen-fit.s4d --holdout 4 --fit" \
    "scene4d reconstruct $rlbench/episode0 -o out/results/rlbench.s4d --holdout overhead"
  row instants 'not timed' 'recordings: rlbench' "scene4d eval reconstruct $rlbench/episode0 --view-every 12"
  row motion 'about 5 min on one thread (six episodes of 48 frames)' 'extra sim' "scene4d eval reconstruct --tasks $six"
  colour=()
  for task in $six; do
    colour+=("scene4d record -o out/results/colour/$task --tasks $task --episodes 1 --first-seed 2000 --frames 10 --size 128 \
  --cameras $four front"
      "scene4d reconstruct out/results/colour/$task -o out/results/colour/$task.s4d --from-pictures --cameras $four \
  --holdout front")
  done
  row colour-cameras '20 s a task' 'extra sim' "${colour[@]}"
  row walking-person 'at most 150 s of optimisation' 'recordings: person' \
    "scene4d convert $quoted/person -o out/results/person --fit crop --size 135 240 --fps 10" \
    'scene4d reconstruct out/results/person -o out/results/person.s4d --from-pictures --holdout cam04'
  row posed-pictures '14 min' 'recordings: fox' \
    "scene4d reconstruct $quoted/fox -o out/results/fox.s4d --from-pictures --size 270 --holdout 8"
  row streaming '28 s on one thread' 'nothing' 'python scripts/bench_streaming.py --cap 33000'

  # Objects: docs/results/reconstruction.md
  row objects 'about 10 min on one thread (18 episodes of 60 frames)' 'extra sim' \
    "python scripts/bench_objects.py --tasks $six --seeds 2000 2002"

  # Speed: docs/results/speed.md, docs/results/simulator.md
  row speed-forecast 'about 2 min on one thread' 'nothing' \
    'python scripts/bench_forecast.py --weights tiny' \
    'python scripts/bench_forecast.py --weights tiny --precision bfloat16'
  row speed-agent 'about a minute (four times 60 steps)' 'extra sim' \
    'OMP_NUM_THREADS=1 python scripts/bench_agent.py --threads 1' \
    'OMP_NUM_THREADS=1 python scripts/bench_agent.py --threads 1 --forecast' \
    'python scripts/bench_agent.py --threads 2' \
    'python scripts/bench_agent.py --threads 2 --forecast'
  row simulator '4 min' 'extra env' 'python scripts/bench_env.py --steps 5000 --envs 1'
  row set-up '10 min, and 3 GB of downloads' 'a C++ compiler' 'python scripts/bench_setup.py b56a46a HEAD'
  row start-up 'about a minute' 'nothing' 'python scripts/bench_start.py'
  row raster 'about a minute (nine cases, 1 s or 20 repeats each)' 'nothing' 'python scripts/bench.py raster --threads 2'
  row neighbours 'about 2 min on busy cores (23 cases, 1 s or 20 repeats each)' 'nothing' 'python scripts/bench_neighbours.py --threads 1'
}

if [ "$mode" = list ]; then
  printf '%-18s | %s | %s\n' name 'on two cores' needs
  tables
  exit
fi
asked=$mode mode=names
tables
for name in "${wanted[@]}"; do
  [[ $name == all || " ${names[*]} " == *" $name "* ]] ||
    { echo "scene4d: results.sh: $name is no table; one of: all ${names[*]}" >&2; exit 2; }
done
mode=$asked
tables
if [ ${#failed[@]} -gt 0 ]; then
  echo "scene4d: results.sh: failed: ${failed[*]}" >&2
  exit 1
fi
