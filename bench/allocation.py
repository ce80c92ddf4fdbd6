"""Which nodes the runs of a study get: all in one allocation, so many jobs at once, or all on the same nodes.

Two nodes of one kind differ by some percent, and so does one node from hour to hour. A curve whose points come from
different nodes shows that as well; these placements keep it out, as far as the site and its queue allow.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench import render
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir

Planned = Sequence[tuple[Case, RunDir]]


def prepare(study: StudyDir, cluster: Cluster, runs: Planned, limit_min: int) -> RunDir:
    """Write the script that makes all runs in one allocation and return its folder (``allocations/<n>``).

    Args:
        study: The study folder.
        cluster: The site.
        runs: What to run, in order, each with its job.sh.
        limit_min: Time limit of one run; the allocation's is as many times that as there are runs.

    Raises:
        ClusterError: The runs do not ask for one kind of node.
    """
    kinds = {(case.gpu_type, case.placement, case.device) for case, _ in runs}
    if len(kinds) > 1:
        raise ClusterError("placement one-allocation: the runs ask for several kinds of nodes; use separate")
    parent = study.path / "allocations"
    parent.mkdir(exist_ok=True)
    folder = parent / str(len(list(parent.iterdir())) + 1)
    folder.mkdir()
    allocation = RunDir(folder)
    allocation.job_sh.write_text(script(cluster, runs, limit_min), encoding="utf-8")
    allocation.job_sh.chmod(allocation.job_sh.stat().st_mode | 0o100)
    return allocation


def script(cluster: Cluster, runs: Planned, limit_min: int) -> str:
    """Return the text of the script: the directives of the largest run, whole nodes, and one line for each run."""
    site = cluster.model_copy(update={"exclusive": True, "requeue": False})
    lines = render.directives(most(runs)[0], site, limit_min * len(runs))
    replaced = {"--job-name": "paceline-allocation", "--output": "allocation.log"}
    lines = [f"{name}={replaced[name]}" if (name := line.partition("=")[0]) in replaced else line for line in lines]
    values = {
        "directives": lines,
        "runs": [(str(run.path.absolute()), case.kind) for case, run in runs],
        "limit_s": max(60, limit_min * 60 - cluster.signal_s),
        "signal_s": cluster.signal_s,
    }
    return render.template("allocation.sh.j2").render(values)


def dependency(job_ids: Sequence[str], max_jobs: int | None) -> str | None:
    """Return the job that the next one must wait for, so that at most ``max_jobs`` run at once; None if for none."""
    return job_ids[-max_jobs] if max_jobs and len(job_ids) >= max_jobs else None


def pinned(nodes: Sequence[str], case: Case) -> list[str]:
    """Return the ``sbatch`` arguments that put a run on the first nodes of those for the largest run."""
    return [f"--nodelist={','.join(nodes[: case.num_nodes])}"] if len(nodes) >= case.num_nodes > 0 else []


def most(runs: Planned) -> tuple[Case, RunDir]:
    """Return the run that asks for most nodes, and for most ranks on each."""
    return max(runs, key=lambda item: (item[0].num_nodes, item[0].local_world_size))
