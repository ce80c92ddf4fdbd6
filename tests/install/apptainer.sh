#!/usr/bin/env bash
# apptainer.sh FOLDER: lay out Apptainer as FOLDER/apptainer/bin/apptainer, from Debian's packages, with a C library of its own.
#
# For tests only. Debian bookworm has no Apptainer, and sid's wants a newer C library: both are taken from sid through a
# private apt configuration, which leaves the machine's own sources alone. What it needs besides comes from the machine's own
# release. Needs root, Debian or Ubuntu, x86_64. Outside of FOLDER it installs packages and gives root a range of
# subordinate ids (for `apptainer build --fakeroot`), if it has none.
set -euo pipefail

folder=$(realpath -m "${1:?apptainer.sh FOLDER}")
prefix=$folder/apptainer
if [ -x "$prefix/bin/apptainer" ] && "$prefix/bin/apptainer" --version; then exit 0; fi
[ "$(id -u)" = 0 ] || { echo "apptainer.sh: needs root" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{debs,apt/lists/partial,apt/cache/archives/partial,apt/sources,unpacked,libraries}
quietly() { "$@" > "$work/log" 2>&1 < /dev/null || { tail -n 20 "$work/log" >&2; echo "apptainer.sh: failed: $1 ${*: -1}" >&2; exit 1; }; }

# ---- packages -----------------------------------------------------------------------------------------------------------
# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$suite" '$2 == suite && $3 == "main" && !found { print $1; found = 1 }')
[ -n "$mirror" ] || { echo "apptainer.sh: no Debian mirror in the sources of apt" >&2; exit 1; }
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || { echo "apptainer.sh: $keyring is missing (package debian-archive-keyring)" >&2; exit 1; }
cat > "$work/apt/sources/sid.sources" << END
Types: deb
URIs: $mirror
Suites: sid
Components: main
Signed-By: $keyring
END
apt=(apt-get -q -oDir::State::Lists="$work/apt/lists" -oDir::Cache="$work/apt/cache"
    -oDir::Etc::sourceparts="$work/apt/sources" -oDir::Etc::sourcelist=/dev/null
    -oAcquire::Languages=none -oAPT::Sandbox::User=root)
libraries=(libc6 libseccomp2 libsqlite3-0 zlib1g)
quietly "${apt[@]}" update
# All in one go: the program and the libraries that it is linked against must come from one state of the archive.
(cd "$work/debs" && quietly "${apt[@]}" download apptainer "${libraries[@]}")
export DEBIAN_FRONTEND=noninteractive
quietly apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
    squashfs-tools squashfuse fuse2fs uidmap fakeroot patchelf

# ---- layout -------------------------------------------------------------------------------------------------------------
dpkg -x "$work"/debs/apptainer_*.deb "$work/unpacked"
for library in "${libraries[@]}"; do dpkg -x "$work"/debs/"${library}"_*.deb "$work/libraries"; done
rm -rf "$prefix"
mkdir -p "$prefix"/{libraries,var/lib}
printf '*\n' > "$folder/.gitignore"
cp -a "$work"/unpacked/usr/{bin,lib} "$work/unpacked/etc" "$prefix/"
cp -a "$work/unpacked/var/lib/apptainer" "$prefix/var/lib/"
# Moved, the program looks for its state and its configuration below lib/.
ln -s ../var "$prefix/lib/var"
ln -s ../etc "$prefix/lib/etc"
for name in ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 libresolv.so.2 \
    libnss_files.so.2 libnss_dns.so.2 libseccomp.so.2 libsqlite3.so.0 libz.so.1; do
    cp -L "$(find "$work/libraries" -name "$name" | head -n 1)" "$prefix/libraries/"
done
for binary in "$prefix/bin/apptainer" "$prefix/lib/x86_64-linux-gnu/apptainer/bin/starter"; do
    patchelf --set-interpreter "$prefix/libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$prefix/libraries" "$binary"
done
# A root without CAP_SYS_RESOURCE (in virtual machines and containers) cannot hand on what it does not have.
sed -i 's/^root default capabilities = full/root default capabilities = no/' "$prefix/etc/apptainer/apptainer.conf"
for map in /etc/subuid /etc/subgid; do
    grep -q '^root:' "$map" 2> /dev/null || echo root:100000:65536 >> "$map"
done
"$prefix/bin/apptainer" --version
