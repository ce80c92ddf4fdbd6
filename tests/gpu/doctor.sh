#!/usr/bin/env bash
# doctor.sh [RANKS]: the check of a node and the all-reduce on this machine's real GPUs. Needs nothing but a Python with torch
# (PYTHON, or python3).
set -euo pipefail
python=${PYTHON:-python3}
ranks=${1:-$(nvidia-smi -L | wc -l)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$folder/code/paceline"
for part in bench profiling; do ln -s "$root/$part" "$folder/code/paceline/$part"; done
export PYTHONPATH=$folder/code PACELINE_RUN_DIR=$folder/runs/000000000000/attempt-1 OMP_NUM_THREADS=1
mkdir -p "$PACELINE_RUN_DIR"
RANKS=$ranks "$python" - << 'END'
import os
from paceline.bench.assignment import load_run
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, write_json

ranks = int(os.environ["RANKS"])
case = Case(kind="warmup", task="doctor", trainer="rsl_rl", world_size=ranks, num_envs=ranks, horizon=1, num_minibatches=1,
            num_epochs=1, iterations=1, warmup_iterations=0, repeat=0, seed=0, device="cuda")
write_json(RunDir(os.environ["PACELINE_RUN_DIR"]).case_json, case.to_json())
load_run()
END
"$python" -m paceline.bench.nodecheck --json
"$python" -m paceline.bench.allreduce --standalone --nnodes=1 "--nproc-per-node=$ranks"
cat "$PACELINE_RUN_DIR/doctor-allreduce.json"
