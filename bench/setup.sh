#!/usr/bin/env bash
# setup.sh [user|dev]: make the environment of the tool, .venv, from containers/locks/tool.txt (what `make setup` calls).
#
# `user` installs what `paceline` needs, the compiler of the readers of large files included, `dev` what the tests, linters
# and type checker need as well. Nothing is done when the environment is up to date. PYTHON names the interpreter to use
# (3.10 or newer; found when not given). The environment of the jobs (Isaac Lab, torch) is another one, made when it is
# first needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly lock=containers/locks/tool.txt
case ${1:-user} in
    user) extras="[fast]" ;;
    dev) extras="[dev,fast]" ;;
    *) echo "setup.sh: unknown set '$1' (user or dev)" >&2; exit 2 ;;
esac

fail() { echo "setup: $*" >&2; exit 1; }
quietly() { # quietly COMMAND...: show what it printed only if it failed
    local log
    log=$(mktemp)
    "$@" > "$log" 2>&1 && { rm -f "$log"; return 0; }
    cat "$log" >&2
    rm -f "$log"
    return 1
}

new_enough() { # a shim that is on PATH may still fail, hence run it
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' > /dev/null 2>&1
}
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10 or newer"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.13 python3.11 python3.10 python3 python /usr/bin/python3 python3.14; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or newer found; install one, or name it: make setup PYTHON=/path/to/python3"
}

find_uv() { # uv on PATH, else in .uv, else installed there; $1 is a Python
    if command -v uv > /dev/null && uv --version > /dev/null 2>&1; then command -v uv; return; fi
    if .uv/bin/uv --version > /dev/null 2>&1; then echo .uv/bin/uv; return; fi
    rm -rf .uv
    # Debian's Python has venv without ensurepip, and elsewhere pip is missing: the one that is there does.
    if "$1" -m venv .uv > /dev/null 2>&1; then
        quietly .uv/bin/python -m pip install --quiet uv || fail "pip could not install uv (see above)"
    elif rm -rf .uv && "$1" -m pip --version > /dev/null 2>&1; then
        quietly "$1" -m pip install --quiet --target .uv uv || fail "pip could not install uv (see above)"
    else
        fail "uv is needed to make .venv: install uv, or python3-venv, or pip for $1"
    fi
    .uv/bin/uv --version > /dev/null 2>&1 || fail "uv was installed to .uv and does not run"
    echo .uv/bin/uv
}

[ -s "$lock" ] || fail "$lock is missing"
# The folder is part of the stamp: scripts in an environment name it, so a checkout that was moved is set up again.
stamp="$({ cat pyproject.toml "$lock"; pwd; } | sha256sum | cut -d' ' -f1) ${PYTHON:-}"
up_to_date() { [ "$(cat ".venv/.paceline-$1" 2> /dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2> /dev/null; }
if up_to_date dev || { [ "${1:-user}" = user ] && up_to_date user; }; then exit 0; fi

echo "setup: making .venv (the tool's environment)" >&2
python=$(find_python)
uv=$(find_uv "$python")
export UV_LINK_MODE=${UV_LINK_MODE:-copy} # no warning where cache and checkout are on two file systems
if ! new_enough .venv/bin/python || [ -n "${PYTHON:-}" ]; then
    quietly "$uv" venv --clear --python "$python" .venv || fail "uv could not make .venv (see above)"
fi
# The lock constrains, with its hashes; what is installed follows from pyproject.toml and the extras.
quietly "$uv" pip install --quiet --python .venv/bin/python --constraint "$lock" --editable ".$extras" ||
    fail "the packages of $lock could not be installed (see above)"
echo "$stamp" > ".venv/.paceline-${1:-user}"
