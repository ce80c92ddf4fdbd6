#!/usr/bin/env bash
# rootfs.sh FOLDER PYTHON: make FOLDER a root file system like the official image python:3.12-slim-bookworm, without a registry:
# the machine's own Debian release, small, with the given Python 3.12 (its base prefix) below /usr/local.
#
# For tests only: the base of the images in containers/, given to them by their build argument. The machine's certificates go
# along, because package indexes may be reached through the machine's own authority. Needs root and mmdebstrap.
set -euo pipefail

folder=$(realpath -m "${1:?rootfs.sh FOLDER PYTHON}")
python=${2:?rootfs.sh FOLDER PYTHON}
if [ -e "$folder/.complete" ]; then exit 0; fi
rm -rf "$folder"
mkdir -p "${folder%/*}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
# What a Python from elsewhere is linked against.
packages=ca-certificates,libssl3,libffi8,zlib1g,libbz2-1.0,liblzma5,libreadline8,libsqlite3-0,libncursesw6,libexpat1,libuuid1
# Without the manuals, and without a sync after every file, as in the official images.
slim=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*'
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io)
mmdebstrap --quiet --variant=minbase "${slim[@]}" --include="$packages" "$suite" "$folder" > "$log" 2>&1 < /dev/null ||
    { tail -n 20 "$log" >&2; echo "rootfs.sh: mmdebstrap failed" >&2; exit 1; }
rm -rf "${folder:?}"/dev/* "$folder"/var/cache/apt/archives/partial "$folder"/var/lib/apt/lists/partial
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
for part in bin include lib; do
    mkdir -p "$folder/usr/local/$part"
    tar -C "$prefix/$part" -c --exclude=./python3.12/test --exclude=./python3.12/site-packages --exclude=__pycache__ . |
        tar -C "$folder/usr/local/$part" -x --no-same-owner
done
ln -sfn python3.12 "$folder/usr/local/bin/python3"
chroot "$folder" ldconfig
chroot "$folder" /usr/local/bin/python3 -m ensurepip > "$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
cp -L "$bundle" "$folder/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$folder/etc/pip.conf"
mkdir -p "$folder/etc/uv"
printf 'native-tls = true\n' > "$folder/etc/uv/uv.toml"
chroot "$folder" /usr/local/bin/python3 -c 'import bz2, ctypes, lzma, sqlite3, ssl'
touch "$folder/.complete"
