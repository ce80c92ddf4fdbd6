#!/usr/bin/env bash
# debian.sh [COMPONENT...]: install the components of components.txt that are missing (all, when none is named).
#
# Under root on Debian or Ubuntu by apt-get. Elsewhere one line says what is missing; that is an error under CI, while a
# developer may still run the tests that need none of it.
set -euo pipefail
readonly components="${BASH_SOURCE[0]%/*}/components.txt"
export PATH="$PATH:/usr/sbin:/sbin" # daemons lie there, and an ordinary user's PATH leaves it out

packages=()
while read -r component program package; do
    case "$component" in '' | '#'*) continue ;; esac
    if [ $# -gt 0 ] && [[ " $* " != *" $component "* ]]; then continue; fi
    command -v "$program" > /dev/null || packages+=("$package")
done < "$components"
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "tests: missing and not installable from here: ${packages[*]} (as root: apt-get install ${packages[*]})" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
echo "tests: installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A lock of another apt is waited for; the tests start their own daemons, so a service that does not start is no matter.
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends)
if ! { apt-get -q update && "${apt[@]}" install "${packages[@]}"; } > "$log" 2>&1 < /dev/null; then
    tail -n 30 "$log" >&2
    echo "tests: apt-get could not install ${packages[*]}" >&2
    exit 1
fi
