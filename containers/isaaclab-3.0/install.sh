#!/bin/sh
# install.sh STEP...: the steps that make the Isaac Lab 3.0 image; Dockerfile and .def both run them, as root, in the image.
#
#   system   libraries from Debian or Ubuntu
#   python   Isaac Lab, the trainers and what measures them, every package by its hash, into /opt/isaaclab
#   assets   Cartpole, Ant and a ground plane, for nodes without internet
#   nsys     the Nsight Systems command line, if NSYS is set
#   finish   what `paceline image check` and the labels say; the import test
#
# Build arguments come as variables: PHYSICS (newton, or ovphysx for PhysX as well), LOCK (a file in containers/locks), NSYS
# (1, or a version such as 2025.3.2). A uv cache shown at /opt/uv-cache or /mnt is used and stays out.
set -eu
build=${BUILD:-/build}
prefix=/opt/isaaclab
PHYSICS=${PHYSICS:-newton} LOCK=${LOCK:-isaaclab-3.0.txt} NSYS=${NSYS:-}
# shellcheck source=containers/nsys.sh
. "$build/containers/nsys.sh"
export DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1

system() {
    apt-get update
    # gcc: Triton compiles its launchers (torch.compile, which rl_games uses); libgl1, libx11-6: imported by mesh libraries.
    apt-get install -y --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 libx11-6 procps
    rm -rf /var/lib/apt/lists/*
}

python() {
    case $PHYSICS in
        newton | ovphysx) ;;
        *) echo "install.sh: PHYSICS=$PHYSICS: newton or ovphysx" >&2; exit 2 ;;
    esac
    cache=--no-cache
    if [ -d /opt/uv-cache ]; then cache="--cache-dir=/opt/uv-cache"; fi # Docker makes the folder for its cache mount
    if [ -e /mnt/CACHEDIR.TAG ]; then cache="--cache-dir=/mnt"; fi        # Apptainer cannot, and binds over one that is there
    python3 -m venv /tmp/uv # beside the image's Python: nothing of uv stays
    /tmp/uv/bin/pip install --quiet --no-cache-dir uv==0.13.8
    export UV_LINK_MODE=copy
    /tmp/uv/bin/uv venv --quiet --python "$(command -v python3)" "$prefix"
    /tmp/uv/bin/uv pip install --quiet "$cache" --python "$prefix/bin/python" --no-deps --require-hashes -r "$build/containers/locks/$LOCK"
    if [ "$PHYSICS" = ovphysx ]; then
        /tmp/uv/bin/uv pip install --quiet "$cache" --python "$prefix/bin/python" --no-deps --require-hashes \
            -r "$build/containers/locks/isaaclab-3.0-ovphysx.txt"
    fi
    rm -rf /tmp/uv
}

assets() {
    # With only this package importable: nothing of Paceline stays in the image, jobs bring their study's own copy.
    mkdir -p /tmp/assets/paceline
    ln -s "$build/bench" /tmp/assets/paceline/bench
    PYTHONPATH=/tmp/assets "$prefix/bin/python" -m paceline.bench.assets "$prefix/paceline-assets"
    rm -rf /tmp/assets
}

finish() {
    install -m 644 "$build/bench/imageprobe.py" "$prefix/imageprobe.py"
    "$prefix/bin/python" "$prefix/imageprobe.py" --labels > "$prefix/labels"
    if [ -n "${APPTAINER_LABELS:-}" ]; then cat "$prefix/labels" >> "$APPTAINER_LABELS"; fi
}

for step in "$@"; do
    case $step in
        system | python | assets | nsys | finish) "$step" ;;
        *) echo "install.sh: no step $step" >&2; exit 2 ;;
    esac
done
