#!/bin/bash
#SBATCH --job-name=paceline-bc727ef25136
#SBATCH --partition=gpu
#SBATCH --time=01:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --gpus-per-node=4
#SBATCH --signal=B:USR1@120
#SBATCH --output=train.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#
# Job script of one case, made by Paceline. Runs with `sbatch job.sh` from its own folder, and with `bash job.sh`.
#   case      bc727ef25136, attempt 1
#   training  Isaac-Ant-Direct, rsl_rl, cuda
#   size      8 ranks on 2 node(s), 16384 environments in all
# What exactly runs stands in case.json; this script only prepares the node and starts it.
# shellcheck disable=SC2016 # values in single quotes are meant as they are
set -euo pipefail

RUN_DIR=/results/study/runs/bc727ef25136/attempt-1
CODE_DIR=/results/study/code
PYTHON=/opt/isaaclab/bin/python

cd -- "$RUN_DIR"
attempt=1
slurm_log="$RUN_DIR/train.log" # where Slurm itself writes to, however often it starts this script
before= # folder of the attempt that this job was at before Slurm started it again
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    # Every start is an attempt of its own: what the one before left stays as it is.
    while [ -d "../attempt-$((attempt + 1))" ]; do attempt=$((attempt + 1)); done
    before="${RUN_DIR%/*}/attempt-$attempt"
    attempt=$((attempt + 1))
    RUN_DIR="${RUN_DIR%/*}/attempt-$attempt"
    mkdir -- "$RUN_DIR"
    for file in case.json launch.json attempt.json job.sh; do
        if [ -e "$before/$file" ]; then cp -- "$before/$file" "$RUN_DIR/"; fi
    done
    cd -- "$RUN_DIR"
    exec >>train.log 2>&1
fi
# Started by hand in a terminal: keep the log as well. (Slurm and the launcher write train.log themselves.)
if [ -z "${SLURM_JOB_ID:-}" ] && [ -t 1 ]; then exec > >(tee -i train.log) 2>&1; fi

# ---- what the training sees -----------------------------------------------------------------------------------------

export PACELINE_RUN_DIR="$RUN_DIR"
export PYTHONPATH="$CODE_DIR" # the study's own copy of the code, never the checkout
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export HYDRA_FULL_ERROR=1
export ISAACSIM_ASSET_ROOT=/assets
# The same number of threads for each rank at every world size, or the curve would show thread scaling as well.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1
export ACCEPT_EULA=Y OMNI_KIT_ACCEPT_EULA=YES # the cluster profile says that its owner accepts the licence

say() { printf 'paceline: %s\n' "$*"; }
fail() {
    printf 'paceline: error: %s\n' "$*" >&2
    exit 1
}

# ---- the end: always the same way out -------------------------------------------------------------------------------

train_pid=   # process group of the training, once it runs
interrupted= # why it was stopped: time_limit, preempted or signal
here=(env)   # command prefix for this node; the container, once that is set up

# An image that does not start cannot say so: then this node's own Python does, if it has one that is new enough.
sentinel() {
    local command=(-m paceline.bench.sentinel "$@")
    "${here[@]}" "$PYTHON" "${command[@]}" || [ -e result.json ] || python3 "${command[@]}"
}

# Writes the sentinel, exactly once, whatever happened before. It decides whether the run counts, not the exit code.
# shellcheck disable=SC2317 # called by trap
finish() {
    local exit_code=$?
    local ended=(--exit-code "$exit_code")
    trap - EXIT
    rm -f -- .paceline-reserve || true # so that the sentinel has room on a full disk
    trap '' USR1 TERM INT
    set +e
    if [ -n "$interrupted" ]; then ended+=(--interrupted "$interrupted"); fi
    sentinel "${ended[@]}"
    if [ -n "${NODE_DIR:-}" ]; then on_nodes timeout 60 rm -rf -- "$NODE_DIR"; fi
    if grep -q '"status": "completed"' result.json 2>/dev/null; then exit 0; fi
    if [ "$exit_code" -ne 0 ]; then exit "$exit_code"; fi
    exit 1
}
trap finish EXIT

# Slurm sends USR1 to this shell only, 120 s before the time limit (the simulator would die of it); TERM comes from
# scancel, preemption or the launcher. Either way the training gets TERM, and KILL if it does not end.
# shellcheck disable=SC2317 # called by trap
on_signal() {
    interrupted=signal
    if [ "$1" = USR1 ]; then interrupted=time_limit; fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        case $(timeout 10 scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null) in
            *PreemptTime=[0-9]* | *JobState=PREEMPTED*) interrupted=preempted ;;
        esac
        # A job that goes back into the queue at once has no such mark; Slurm's last word in the job's log says why.
        case $1$(tail -c 65536 -- "$slurm_log" 2>/dev/null | grep -a '^slurmstepd[^ ]* error: \*\*\* JOB' | tail -n 1) in
            TERM*"DUE TO PREEMPTION"*) interrupted=preempted ;;
        esac
    fi
    say "signal $1 ($interrupted): stopping"
    printf '%s' "$interrupted" >.interrupted || true # for the next start, should this one be killed before its sentinel
    if [ -n "$train_pid" ]; then stop_training; fi
}
# shellcheck disable=SC2317 # called by trap
stop_training() {
    kill -TERM -- "-$train_pid" 2>/dev/null || true
    { sleep 45 && kill -KILL -- "-$train_pid"; } </dev/null >/dev/null 2>&1 &
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM
trap 'on_signal INT' INT

# ---- environment capture: names of variables only, their values may be secrets --------------------------------------

say "started $(date -u +%Y-%m-%dT%H:%M:%SZ) on $(uname -n), $(uname -sr), bash $BASH_VERSION"
say "job ${SLURM_JOB_ID:-none}, nodes ${SLURM_JOB_NODELIST:-$(uname -n)}, GPUs ${CUDA_VISIBLE_DEVICES:-not restricted}"
say "variables: $(compgen -e | tr '\n' ' ')"
if command -v nvidia-smi >/dev/null; then timeout 20 nvidia-smi -L || true; fi

# ---- caches: compiled kernels are kept between jobs -----------------------------------------------------------------

CACHE_DIR=${XDG_CACHE_HOME:-${HOME:-$RUN_DIR}/.cache}/paceline
mkdir -p "$CACHE_DIR/xdg" "$CACHE_DIR/warp" || fail "the cache folder cannot be made: $CACHE_DIR"
CACHE_DIR=$(cd -- "$CACHE_DIR" && pwd)
export WARP_CACHE_PATH="$CACHE_DIR/warp"
export XDG_CACHE_HOME="$CACHE_DIR/xdg"
export TORCHINDUCTOR_CACHE_DIR="$CACHE_DIR/inductor" TRITON_CACHE_DIR="$CACHE_DIR/triton"

# ---- folders on the node: an image is read-only, and two ranks must not write to one cache -----------------------------

on_nodes() { srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "$@" </dev/null; }
NODE_DIR=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/paceline-$(id -u)-${SLURM_JOB_ID:-$$}-${SLURM_RESTART_COUNT:-0}
case $NODE_DIR in
    *[:,\"]*) fail "a colon, comma or quote in TMPDIR: this folder cannot be bound into a container: $NODE_DIR" ;;
esac
# The owner counts: where everybody may write, somebody else could have made a folder of this name.
# shellcheck disable=SC2016 # the inner shell expands them
on_nodes bash -c '{ mkdir -m 700 -- "$1" 2>/dev/null || { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; }; } &&
    mkdir -p -- "$1/home" "$1/tmp"' bash "$NODE_DIR" || fail "this folder cannot be made on every node: $NODE_DIR"
export TMPDIR="$NODE_DIR/tmp" # torchrun and others leave files there
export PACELINE_NODE_DIR="$NODE_DIR" PACELINE_WARM_DIR="$CACHE_DIR/warm"
export PYTHONNOUSERSITE=1 # packages in the user's own ~/.local are none of the image's
export GIT_PYTHON_REFRESH="${GIT_PYTHON_REFRESH:-quiet}" # rsl_rl imports GitPython, and images often have no git
if [ "$(id -u)" = 0 ]; then export OMNI_KIT_ALLOW_ROOT=1; fi
mounts=() # SOURCE:TARGET, for folders that the image writes to; known once it was asked
made=()   # their sources
# The assets may lie on the site, or in the image itself.
if [ -d /assets ]; then mounts+=(/assets:/assets:ro); fi


# ---- where it runs --------------------------------------------------------------------------------------------------

# Apptainer passes the environment on. What jobs write lies in the study folder, the cache folder and the node's folder.
apptainer=$(command -v apptainer || command -v singularity) ||
    fail "neither apptainer nor singularity is on PATH: name its module in the cluster profile (modules)"
enter() {
    here=("$apptainer" exec
        --nv
        --home "$NODE_DIR/home"
        --pwd "$RUN_DIR"
        --bind /results/study
        --bind "$CACHE_DIR"
        --bind "$NODE_DIR"
        "${mounts[@]/#/--bind=}"
        --bind /scratch:/scratch
        --bind /data:/mnt/data:ro
        --writable-tmpfs
        '/images/isaac lab.sif')
    # One task per node; torchrun makes the ranks. (srun no longer takes --cpus-per-task over from sbatch.)
    everywhere=(srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "${here[@]}")
}

# ---- the image: its Python and its layout are asked for, not assumed ---------------------------------------------------

# The beginning of an image file holds its identity and the table of its contents; the whole of it would take a minute.
if [ -f '/images/isaac lab.sif' ]; then
    PACELINE_IMAGE_DIGEST=$({ stat -Lc %s '/images/isaac lab.sif'; head -c 1048576 '/images/isaac lab.sif'; } | sha256sum | cut -c 1-16)
elif [ -d '/images/isaac lab.sif' ]; then
    # Not every folder with a system in it was made by Apptainer.
    PACELINE_IMAGE_DIGEST=$({ stat -Lc '%n %Y' '/images/isaac lab.sif' '/images/isaac lab.sif'/.singularity.d/* 2>/dev/null || true; } | sha256sum | cut -c 1-16)
else
    PACELINE_IMAGE_DIGEST='/images/isaac lab.sif'
fi
export PACELINE_IMAGE_DIGEST
enter
# shellcheck disable=SC2016 # the image's shell expands them
image_facts=$("${here[@]}" sh -c '
    for python in /opt/isaaclab/bin/python /isaac-sim/python.sh /workspace/isaaclab/_isaac_sim/python.sh \
        /opt/isaaclab-venv/bin/python "${VIRTUAL_ENV:-/none}/bin/python" "$(command -v python3)"; do
        if [ -x "$python" ]; then echo "python $python"; break; fi
    done
    for folder in "${ISAACLAB_PATH:-/none}" /workspace/isaaclab; do
        if [ -d "$folder/scripts" ]; then echo "isaaclab $folder"; break; fi
    done
    for folder in /isaac-sim/kit/cache /isaac-sim/kit/data /isaac-sim/kit/logs /workspace/isaaclab/logs \
        /workspace/isaaclab/data_storage /var/cache/hub; do
        if [ -d "$folder" ] && [ ! -w "$folder" ]; then echo "folder $folder"; fi
    done' </dev/null) || fail "the image does not start (the lines above say why): "'/images/isaac lab.sif'
while read -r word value; do
    case $word in
        python) if [ "$PYTHON" = auto ]; then PYTHON=$value; fi ;;
        isaaclab) export ISAACLAB_PATH="${ISAACLAB_PATH:-$value}" ;;
        folder)
            made+=("$NODE_DIR/image$value")
            mounts+=("$NODE_DIR/image$value:$value")
            ;;
    esac
done <<<"$image_facts"
[ "$PYTHON" != auto ] || fail "no Python was found in the image; name it with python: in the cluster profile"
if [ -n "${made[*]}" ]; then on_nodes mkdir -p -- "${made[@]}"; fi
enter
say "image $PACELINE_IMAGE_DIGEST, Python $PYTHON; in the place of folders in it: ${made[*]:-none}"
PACELINE_CACHE_KEY=$("${here[@]}" "$PYTHON" -m paceline.bench.caches key </dev/null) || fail "the key of the kernel cache cannot be made"
export PACELINE_CACHE_KEY PYTHONPYCACHEPREFIX="$CACHE_DIR/bytecode/$PACELINE_CACHE_KEY"
unset PYTHONDONTWRITEBYTECODE # images come without compiled modules, and every rank would compile them anew
enter

if [ -n "$before" ] && [ ! -e "$before/result.json" ]; then
    # Nothing of that attempt lived long enough to write its sentinel: it was told to end, or its node went away.
    PACELINE_RUN_DIR="$before" sentinel --interrupted "$(cat "$before/.interrupted" 2>/dev/null || echo node_failure)" || true
fi

# ---- preflight: fail in seconds, with a reason ----------------------------------------------------------------------

if ! printf x >.paceline-preflight || ! rm .paceline-preflight; then fail "the run folder is not writable: $RUN_DIR"; fi
head -c 131072 /dev/zero >.paceline-reserve || fail "the disk of the run folder is full: No space left on device"
[ -d "$CODE_DIR/paceline" ] || fail "the study's copy of the code is missing: $CODE_DIR"
"${here[@]}" "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "this Python does not run, or is older than 3.10: $PYTHON"
# GPUs are taken as Slurm set them and never renumbered.
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .) || true
else
    gpus=$(timeout 20 nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || true
fi
[ "$gpus" -ge 4 ] || fail "$gpus GPUs are visible on $(uname -n), 4 are needed"

# The rest of it in Python, on every node: doctor-<node>.json keeps what it found.
"${everywhere[@]}" "$PYTHON" -m paceline.bench.nodecheck </dev/null || fail "the check of the node failed (see above)"

# ---- training: torchrun, one process per rank -----------------------------------------------------------------------

# The ranks meet at the first host of the job, which is the one this script runs on, at a port that is free there now.
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_port=$("${here[@]}" "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
say "rendezvous at $head_node:$head_port"
torchrun=(--nnodes=2 --nproc-per-node=4
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head_node:$head_port")
# Ranks that cannot talk to each other would hang: ask them for one sum first, at the size of this run.
sum_port=$("${here[@]}" "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])' </dev/null)
sum=("${torchrun[@]/#--rdzv-endpoint=*/--rdzv-endpoint=$head_node:$sum_port}")
sum=("${sum[@]/#--rdzv-id=*/--rdzv-id=$SLURM_JOB_ID-sum}")
timeout --kill-after=10 180 "${everywhere[@]}" "$PYTHON" -m paceline.bench.allreduce "${sum[@]}" </dev/null ||
    fail "the ranks cannot add up a tensor: NCCL or the network (see above; NCCL_DEBUG=INFO in environment: of the profile tells more)"
if [ -n "$interrupted" ]; then exit 143; fi
say "training starts at $(date -u +%Y-%m-%dT%H:%M:%SZ)"
# setsid: a process group of its own, so that all of it can be stopped.
setsid "${everywhere[@]}" "$PYTHON" -m paceline.bench.supervise \
    --stall-s 1800 --exit-grace-s 60 --left-s "$((3600 - SECONDS))" -- \
    "$PYTHON" -m torch.distributed.run "${torchrun[@]}" -m paceline.bench.worker </dev/null &
train_pid=$!
if [ -n "$interrupted" ]; then stop_training; fi
# A trapped signal makes `wait` return early: wait until the training has really ended.
while :; do
    exit_code=0
    wait "$train_pid" || exit_code=$?
    kill -0 "$train_pid" 2>/dev/null || break
done
say "training ended at $(date -u +%Y-%m-%dT%H:%M:%SZ) with exit code $exit_code"
if [ "$exit_code" = 0 ]; then "${here[@]}" "$PYTHON" -m paceline.bench.caches publish </dev/null || say "the kernel cache was not kept"; fi
exit "$exit_code"
