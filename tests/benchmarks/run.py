"""Runs all benchmarks of this folder and prints one line for each figure: name, figure, target, machine.

    make bench                                          all of them
    .venv/bin/python tests/benchmarks/run.py report     those named

Each script here prints its own lines (`name: figure (target ...)`) and exits with 1 when a target is missed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def machine() -> str:
    """Return processor, cores and Python in a few words."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = " ".join(line.split(":", 1)[1].split())
                break
    except OSError:
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def main(names: list[str]) -> int:
    """Run the named scripts, all if none is named; return 1 if a target was missed or a script failed."""
    scripts = sorted(path for path in HERE.glob("*.py") if path.name not in {"run.py", "slots.py", "__init__.py"})
    unknown = set(names) - {path.stem for path in scripts}
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(path.stem for path in scripts)}")
        return 2
    where = machine()
    failed = []
    for path in scripts:
        if names and path.stem not in names:
            continue
        with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{line.rstrip()} [{where}]" if line.strip() else "", flush=True)
        if process.returncode:
            failed.append(path.stem)
    if failed:
        print(f"targets missed, or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
