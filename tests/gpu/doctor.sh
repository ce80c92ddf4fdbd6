#!/usr/bin/env bash
# doctor.sh [RANKS]: what the doctor says of this machine's real GPUs: the check of a node for RANKS ranks (all GPUs), Vulkan, and
# the all-reduce at 1, 2 ... RANKS ranks. One JSON object per finding on standard output, progress on standard error; exit
# status 1 if one is a failure. Needs a Python with torch (PYTHON, or python3) and no installation. A minute at four GPUs.
set -euo pipefail
python=${PYTHON:-python3}
ranks=${1:-$(nvidia-smi -L | grep -c '^GPU ')}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$folder/code/paceline"
for part in bench profiling; do ln -s "$root/$part" "$folder/code/paceline/$part"; done
export PYTHONPATH=$folder/code${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1
export PACELINE_RUN_DIR=$folder/runs/000000000000/attempt-1
mkdir -p "$PACELINE_RUN_DIR"
RANKS=$ranks "$python" - << 'END'
import os
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, write_json

ranks = int(os.environ["RANKS"])
case = Case(kind="warmup", task="doctor", trainer="rsl_rl", world_size=ranks, num_envs=ranks, horizon=1, num_minibatches=1,
            num_epochs=1, iterations=1, warmup_iterations=0, repeat=0, seed=0, device=os.environ.get("DEVICE", "cuda"))
write_json(RunDir(os.environ["PACELINE_RUN_DIR"]).case_json, case.to_json())
END
failed=0
"$python" -m paceline.bench.nodecheck >&2 || failed=1
for count in $(seq "$ranks"); do
    "$python" -m paceline.bench.allreduce --standalone --nnodes=1 "--nproc-per-node=$count" >&2 || failed=1
    [ ! -e "$PACELINE_RUN_DIR/doctor-allreduce.json" ] || mv "$PACELINE_RUN_DIR/doctor-allreduce.json" "$folder/allreduce-$count.json"
done
"$python" - "$PACELINE_RUN_DIR"/doctor-*.json "$folder"/allreduce-*.json << 'END'
import json
import sys
from pathlib import Path
from paceline.bench.nodecheck_gpu import vulkan_devices

rows = [row for name in sys.argv[1:] if Path(name).exists() for row in json.loads(Path(name).read_text())["findings"]]
devices = vulkan_devices()  # the check itself asks only where the engine needs Vulkan
rows.append({"check": "vulkan devices", "state": "ok" if isinstance(devices, int) and devices else "warning", "text": str(devices)})
for row in rows:
    print(json.dumps(row))
END
exit "$failed"
