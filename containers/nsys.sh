# shellcheck shell=sh
# Sourced by the install.sh of each image: the Nsight Systems command line from NVIDIA's package repository, if NSYS is set.
# It is NVIDIA's, under its licence: an image with it is for one's own site.

nsys() { # NSYS: 1 for the newest, or a version such as 2025.3.2
    if [ -z "${NSYS:-}" ]; then return; fi
    apt-get update
    apt-get install -y --no-install-recommends ca-certificates curl gnupg
    repository=https://developer.download.nvidia.com/devtools/repos/ubuntu2204/amd64
    curl -fsSL "$repository/nvidia.pub" | gpg --dearmor -o /usr/share/keyrings/nvidia-devtools.gpg
    echo "deb [signed-by=/usr/share/keyrings/nvidia-devtools.gpg] $repository/ /" > /etc/apt/sources.list.d/nvidia-devtools.list
    apt-get update
    package=nsight-systems-cli
    if [ "$NSYS" != 1 ]; then package="nsight-systems-cli-$NSYS"; fi
    apt-get install -y --no-install-recommends "$package"
    rm -rf /var/lib/apt/lists/*
}
