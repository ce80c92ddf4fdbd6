"""Container: what a runtime needs besides its image.

The command lines are macros in slurm_templates/runtimes.sh.j2, one per runtime; here is what they are given: folders
to bind and variables to pass, checked for what the runtimes' own syntax cannot express.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError
from paceline.bench.shell import JOB_VARIABLES


def binds(cluster: Cluster) -> list[str]:
    """Return the binds of the profile as ``/source:/target[:ro]``."""
    return [bind if ":" in bind else f"{bind}:{bind}" for bind in cluster.runtime.binds]


def check_paths(cluster: Cluster, paths: Iterable[Path | str | None]) -> None:
    """Raise ClusterError if a path cannot be bound: runtimes split their bind options at colons and commas."""
    if cluster.runtime.kind == "none":
        return
    for path in paths:
        bad = next((c for c in ':,"\n' if c in str(path or "")), None)
        if bad is not None:
            raise ClusterError(
                f"path {str(path)!r}: has {bad!r}, which {cluster.runtime.kind} cannot bind; use a path without"
            )


def variables(environment: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names of all variables that a container must be given."""
    return [*JOB_VARIABLES, *(name for name, _ in environment)]
