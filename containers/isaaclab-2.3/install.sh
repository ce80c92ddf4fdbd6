#!/bin/sh
# install.sh STEP...: the steps that make the Isaac Lab 2.3 image out of NVIDIA's; Dockerfile and .def both run them, as
# root, in the image.
#
#   python   what measures a run, into the Python of Isaac Sim, every package by its hash
#   folders  the folders that Isaac Sim writes to: they must exist for a read-only image to be bound over
#   nsys     the Nsight Systems command line, if NSYS is set (1, or a version such as 2025.3.2)
#   finish   what `paceline image check` and the labels say
#
# Isaac Sim's root and Isaac Lab's folder are looked for, not assumed: ISAACSIM_ROOT and ISAACLAB_PATH name them elsewhere.
set -eu
build=${BUILD:-/build}
NSYS=${NSYS:-}
# shellcheck source=containers/nsys.sh
. "$build/containers/nsys.sh"
export DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1

isaaclab=${ISAACLAB_PATH:-/workspace/isaaclab}
isaacsim=
for candidate in "${ISAACSIM_ROOT:-}" "${ISAACSIM_PATH:-}" /isaac-sim "$isaaclab/_isaac_sim"; do
    if [ -n "$candidate" ] && [ -x "$candidate/python.sh" ]; then isaacsim=$candidate; break; fi
done
[ -n "$isaacsim" ] || { echo "install.sh: no Isaac Sim (python.sh) in this base image" >&2; exit 1; }

python() {
    "$isaacsim/python.sh" -m pip install --quiet --no-cache-dir --no-deps --require-hashes \
        -r "$build/containers/locks/isaaclab-2.3.txt"
}

folders() {
    # Kit keeps caches, settings and logs below its own folder, Isaac Lab below its own; every user must be able to bind there.
    mkdir -p "$isaacsim/kit/cache" "$isaacsim/kit/data" "$isaacsim/kit/logs" "$isaaclab/logs" "$isaaclab/data_storage"
    # Images whose user is not root keep these to that user, while jobs run as whoever submitted them.
    chmod a+rx "$isaacsim" "$isaacsim/kit" "$isaaclab"
}

finish() {
    mkdir -p /opt/isaaclab
    install -m 644 "$build/bench/imageprobe.py" /opt/isaaclab/imageprobe.py
    # One name for the health check, wherever Isaac Sim lies; no link, since python.sh finds its folder by its own path.
    printf '#!/bin/sh\nexec "%s/python.sh" "$@"\n' "$isaacsim" > /opt/isaaclab/python
    chmod 755 /opt/isaaclab/python
    "$isaacsim/python.sh" /opt/isaaclab/imageprobe.py --labels > /opt/isaaclab/labels
    if [ -n "${APPTAINER_LABELS:-}" ]; then cat /opt/isaaclab/labels >> "$APPTAINER_LABELS"; fi
}

for step in "$@"; do
    case $step in
        python | folders | nsys | finish) "$step" ;;
        *) echo "install.sh: no step $step" >&2; exit 2 ;;
    esac
done
