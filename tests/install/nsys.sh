#!/usr/bin/env bash
# nsys.sh FOLDER [VERSION]: lay out the Nsight Systems command line from Debian's non-free packages as FOLDER/nsys/bin/nsys.
#
#   VERSION  2024.2.3 (default; Debian experimental): traces CUDA and NVTX, also with driver 580
#            2023.4.4 (Debian trixie): with driver 580 only NVTX; tracing CUDA crashes the program
#
# For tests only. The packages come from the Debian mirror of this machine through a private apt configuration, which
# leaves the machine's own sources alone. Needs Debian on x86_64 with apt-get, dpkg and a C compiler, not root. The licence
# allows use, but no distribution: FOLDER hides all of its content from git, and must never go into an image.
set -euo pipefail

folder=$(realpath -m "${1:?nsys.sh FOLDER [VERSION]}")
version=${2:-2024.2.3}
readonly old=2023.4.4.54~12.4.1-2
case $version in
    2023.4.4) full=$old cupti="libcupti.so.12.4 libcupti.so.11.8" ;;
    2024.2.3) full=2024.2.3.38~12.5.0-2+b1 cupti="libcupti.so.12.5" ;;
    *) echo "nsys.sh: unknown version '$version' (2024.2.3 or 2023.4.4)" >&2; exit 2 ;;
esac
nsys=$folder/nsys/bin/nsys
if [ -x "$nsys" ] && [[ "$("$nsys" --version)" == *" $version."* ]]; then exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{debs,old,apt/lists/partial,apt/cache/archives/partial,apt/sources,unpacked,check}

# ---- packages -----------------------------------------------------------------------------------------------------------
# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$suite" '$2 == suite && $3 == "main" && !found { print $1; found = 1 }')
[ -n "$mirror" ] || { echo "nsys.sh: no Debian mirror in the sources of apt" >&2; exit 1; }
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || { echo "nsys.sh: $keyring is missing (package debian-archive-keyring)" >&2; exit 1; }
cat > "$work/apt/sources/nsys.sources" << END
Types: deb
URIs: $mirror
Suites: $suite trixie experimental
Components: main non-free
Signed-By: $keyring
END
apt=(apt-get -q -oDir::State::Lists="$work/apt/lists" -oDir::Cache="$work/apt/cache"
    -oDir::Etc::sourceparts="$work/apt/sources" -oDir::Etc::sourcelist=/dev/null
    -oAcquire::Languages=none -oAPT::Sandbox::User="$(id -un)")
quietly() { "$@" > "$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; echo "nsys.sh: failed: $1 ${*: -1}" >&2; exit 1; }; }
quietly "${apt[@]}" update
cd "$work/debs"
quietly "${apt[@]}" download "nsight-systems=$full" "nsight-systems-target=$full" \
    "libelf1/$suite" "libpfm4/$suite" "zlib1g/$suite"
for deb in *.deb; do dpkg -x "$deb" "$work/unpacked"; done
host_source=$work/unpacked/usr/lib/nsight-systems/host-linux-x64
target_source=$work/unpacked/usr/lib/x86_64-linux-gnu/nsight-systems/target-linux-x64
if [ "$version" = 2024.2.3 ]; then # wants libarrow.so.500, which only the older package brings along
    cd "$work/old"
    quietly "${apt[@]}" download "nsight-systems=$old"
    dpkg -x nsight-systems_*.deb "$work/old"
    cp -L "$work/old/usr/lib/nsight-systems/host-linux-x64/libarrow.so.500" "$host_source/"
fi

# ---- one folder: Debian splits host from target, and nsys does not find its importer then --------------------------------
rm -rf "$folder/nsys"
mkdir -p "$folder"/nsys/{bin,target-linux-x64,host-linux-x64}
printf '*\n' > "$folder/.gitignore"
host=$folder/nsys/host-linux-x64 target=$folder/nsys/target-linux-x64
cp -L "$host_source/QdstrmImporter" "$host_source/nvlog.config.template" "$host/"
ldd "$host_source/QdstrmImporter" | grep -oE "$host_source/[^ ]+" | sort -u | grep -v '/libssh\.so' |
    while read -r library; do cp -L "$library" "$host/"; done
tar -C "$target_source" -c --exclude='libcupti.so.*' --exclude=./CollectX --exclude=./nvgpucs --exclude=./vulkan-layers \
    --exclude=./PythonFunctionsTrace --exclude=libnvperf_grfx_host.so . | tar -x -C "$target"
for library in $cupti; do cp -L "$target_source/$library" "$target/"; done
find_library() { find "$work/unpacked" -name "$1" | head -n 1; }
for library in libelf.so.1 libz.so.1; do cp -L "$(find_library "$library")" "$target/"; done
for library in libpfm.so.4 libz.so.1; do cp -L "$(find_library "$library")" "$host/"; done
find "$folder/nsys" -xtype l -delete
ln -s ../target-linux-x64/nsys "$nsys"
# libssh is needed for remote targets only: every function of this stand-in fails.
for file in "$host"/*; do nm -D --undefined-only "$file" 2> /dev/null | grep -oE ' (ssh|sftp)_[a-z0-9_]+' || true; done |
    sort -u | while read -r symbol; do echo "int $symbol(void) { return -1; }"; done > "$work/libssh.c"
cc -shared -fPIC -O1 -Wl,-soname,libssh.so -o "$host/libssh.so" "$work/libssh.c"

# ---- does it work? ----------------------------------------------------------------------------------------------------
if ldd "$host/QdstrmImporter" | grep 'not found' >&2; then echo "nsys.sh: the importer lacks libraries" >&2; exit 1; fi
quietly "$nsys" profile --trace=nvtx --sample=none --cpuctxsw=none -o "$work/check/report" /bin/true
[ -s "$work/check/report.nsys-rep" ] || { cat "$work/log" >&2; echo "nsys.sh: nsys wrote no report" >&2; exit 1; }
"$nsys" --version
