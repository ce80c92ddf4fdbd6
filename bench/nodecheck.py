"""What a node is like just before a job uses it: prints what matters, keeps all of it in the run folder. Scope: node.

    python -m paceline.bench.nodecheck [--json]

The job script runs it on every node, inside the container, before the training; `paceline doctor --on-node` runs it
alone. Each finding has ``check``, ``state`` (ok, warning, failure), ``text``, ``fix`` and ``node``; they go to
``doctor-<node>.json`` in the run folder. Exit status 1 if one is a failure: then the job ends in seconds, not in an
hour. Standard library only; nothing of torch is loaded (bench/allreduce.py does that, where ranks talk to each other).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from paceline.bench import nodecheck_gpu, nodecheck_system
from paceline.bench.assignment import load_run
from paceline.bench.errors import PacelineError
from paceline.bench.hardware import node_name
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, write_json

SCHEMA = "paceline.doctor/1"
Check = Callable[[RunDir, Case], "Iterable[tuple[str, str, str, str | None]]"]
"""Yields (check, state, text, fix)."""
CHECKS: tuple[Check, ...] = (
    nodecheck_system.cores,
    nodecheck_system.memory,
    nodecheck_system.disk,
    nodecheck_system.assets,
    nodecheck_system.network,
    nodecheck_system.clock,
    nodecheck_system.load,
    nodecheck_gpu.gpus,
    nodecheck_gpu.driver,
    nodecheck_gpu.foreign,
    nodecheck_gpu.vulkan,
)


def examine(run: RunDir, case: Case) -> list[dict[str, Any]]:
    """Return the findings of all checks. A check that breaks is a warning of its own, never the end of a job."""
    node = node_name()
    found = []
    for check in CHECKS:
        try:
            rows = list(check(run, case))
        except Exception as error:
            rows = [(check.__name__, "warning", f"could not be checked: {type(error).__name__}: {error}", None)]
        for name, state, text, fix in rows:
            found.append({"check": name, "state": state, "text": text, "fix": fix, "node": node})
    return found


def main(arguments: list[str]) -> int:
    """Check this node for the run that PACELINE_RUN_DIR names; return 1 if it cannot do it, else 0."""
    run, case = load_run()
    found = examine(run, case)
    try:
        write_json(run.doctor_json(node_name()), {"schema": SCHEMA, "node": node_name(), "findings": found})
    except OSError as error:
        text = f"the run folder cannot be written ({error.strerror}): {run.path}"
        fix = "free space or quota there, or choose another folder with results: in the cluster profile"
        found.append({"check": "disk", "state": "failure", "text": text, "fix": fix, "node": node_name()})
    if "--json" in arguments:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            if row["state"] != "ok":
                fix = f" ({row['fix']})" if row["fix"] else ""
                print(f"paceline: {row['state']}: {row['node']}: {row['check']}: {row['text']}{fix}", flush=True)
    return 1 if any(row["state"] == "failure" for row in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
