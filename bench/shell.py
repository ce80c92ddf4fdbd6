"""Text from study and cluster files on its way into a job script.

Three rules keep it from being run as shell code: values in the script's body are quoted (`quote`), values in #SBATCH
lines hold none of the characters that sbatch or a line of comment could take for something else (`check_directive`),
and variable names are names that a shell script can set without changing its own course (`check_environment`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from paceline.bench.redaction import is_secret_name, looks_secret

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIRECTIVE = re.compile(r"[A-Za-z0-9_.,:@%+=/&|*!()\[\]-]+")

# Variables that steer bash itself, some of them read-only.
_SHELL_NAMES = re.compile(
    r"BASH.*|SHELLOPTS|IFS|PS[0-4]|PROMPT_COMMAND|ENV|UID|EUID|PPID|OPTIND|OPTARG|RANDOM|SECONDS|_"
)

# A study or profile may set these to something else.
_DEFAULTS = ("HYDRA_FULL_ERROR", "HOME", "ISAACLAB_PATH", "OMNI_KIT_ALLOW_ROOT", "GIT_PYTHON_REFRESH", "TMPDIR")

# What the job script exports and the training reads: a container that passes nothing on by itself is given all of it.
JOB_VARIABLES = (
    "PACELINE_RUN_DIR",
    "PACELINE_NODE_DIR",
    "PACELINE_WARM_DIR",
    "PACELINE_CACHE_KEY",
    "PACELINE_IMAGE_DIGEST",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHONNOUSERSITE",
    "PYTHONPYCACHEPREFIX",
    "ISAACSIM_ASSET_ROOT",
    "WARP_CACHE_PATH",
    "XDG_CACHE_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ACCEPT_EULA",
    "OMNI_KIT_ACCEPT_EULA",
    *_DEFAULTS,
)

# A value from a file for one of these would be overwritten, or break the launch.
RESERVED = frozenset(JOB_VARIABLES) - set(_DEFAULTS) | {
    "CUDA_VISIBLE_DEVICES",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
}


def quote(value: object) -> str:
    """Return a value as one word of a POSIX shell, whatever characters it has; ValueError for a null character."""
    text = str(value)
    if "\0" in text:
        raise ValueError("a shell word cannot hold a null character")
    return shlex.quote(text)


def comment(value: object) -> str:
    """Return a value as a script's comment shows it: one line, printable ASCII."""
    return ascii(str(value))[1:-1]


def check_directive(value: str) -> str:
    """Return a value for an #SBATCH line; ValueError if it has a blank, a quote or another unusual character."""
    if not _DIRECTIVE.fullmatch(value):
        raise ValueError(
            f"{value!r} has characters that an #SBATCH line cannot take (blank, quote, $, #, ;, line break)"
        )
    return value


def check_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables; ValueError if a name is not one that a file may set."""
    for name in variables:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of an environment variable (letters, digits, underscore)")
        if name in RESERVED:
            raise ValueError(f"{name} is set by Paceline itself")
        if is_secret_name(name) or looks_secret(variables[name]):
            raise ValueError(
                f"{name} holds a credential, which would stand in scripts and records; set it in the shell that starts "
                "paceline instead: jobs inherit it"
            )
        if _SHELL_NAMES.fullmatch(name):
            raise ValueError(f"{name} steers the shell and cannot be set")
    return dict(variables)
