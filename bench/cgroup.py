"""How often the kernel killed a process of this job for memory, from its control group. Linux. Scope: node."""

from __future__ import annotations

import re
from pathlib import Path

_COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the kills for memory in this process's own control group, None where the system does not tell.

    With Slurm's task/cgroup that is the group of the batch step, where a one-node training runs. Groups further up
    belong to others as well. The counters begin with the group, which begins with the job.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if path == "/":
            continue  # no group of its own: the counters are the machine's
        if controllers == "":
            files = [root / path.lstrip("/") / "memory.events"]
        elif "memory" in controllers.split(","):
            files = [root / "memory" / path.lstrip("/") / "memory.oom_control"]
        else:
            continue
        for file in files:
            try:
                found = _COUNTER.search(file.read_text())
            except OSError:
                continue
            if found:
                return int(found.group(1))
    return None
