"""Doctor: what would stop a study at this site, found before anything is queued, and with what to do about it.

The plan side asks the scheduler, the folders and the image; it takes seconds and queues nothing. `on_node` starts one
small job through the same job script as a study's, which checks its nodes (bench/nodecheck.py), lets all ranks add up a
tensor (bench/allreduce.py) and ends.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.bench import doctor_paths, doctor_slurm, findings, launch, render, snapshot
from paceline.bench.cluster import Cluster
from paceline.bench.errors import LaunchError
from paceline.bench.findings import Finding
from paceline.bench.local import visible_gpus
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, write_json

_CHECK_MIN = 10
"""Time limit of the job that checks nodes, in minutes."""


def examine(cluster: Cluster) -> Iterator[Finding]:
    """Yield what the login node can tell about a site, as it is found."""
    if cluster.scheduler == "slurm":
        yield from doctor_slurm.examine(cluster)
    yield from doctor_paths.examine(cluster)


def on_node(cluster: Cluster, num_nodes: int, ranks_per_node: int | None, say: Callable[[str], None]) -> list[Finding]:
    """Check nodes of a site from the inside, by one job; return what it found.

    Args:
        cluster: The site.
        num_nodes: How many nodes at once.
        ranks_per_node: Ranks (GPUs) on each; the GPUs of a node if None.
        say: Gets lines of progress.

    Raises:
        LaunchError: The folder cannot be written, or there is no scheduler.
    """
    case = check_case(cluster, num_nodes, ranks_per_node)
    results = Path(cluster.results).expanduser().absolute()
    try:
        results.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=results, prefix=".doctor-"))
    except OSError as error:
        raise LaunchError(f"{results}: cannot be written ({error.strerror})") from error
    try:
        study = StudyDir(folder)
        run = study.run(case.case_id, 1)
        snapshot.take(study)
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
        side = launch.job_side(cluster, say)
        script = render.render_job(
            case, cluster, study, 1, side.python, side.asset_root, time_limit_min=_CHECK_MIN, only_check=True
        )
        run.job_sh.write_text(script, encoding="utf-8")
        return _run(cluster, run, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_case(cluster: Cluster, num_nodes: int, ranks_per_node: int | None) -> Case:
    """Return the case whose resources the check asks for: all GPUs of a node, or two CPU ranks where there are none."""
    gpus = visible_gpus() if cluster.scheduler == "local" else (cluster.gpus_per_node or 0)
    ranks = ranks_per_node or gpus or 2
    size = num_nodes * ranks
    return Case(
        kind="warmup",
        task="doctor",
        trainer="rsl_rl",
        world_size=size,
        num_nodes=num_nodes,
        num_envs=size,
        horizon=1,
        num_minibatches=1,
        num_epochs=1,
        iterations=1,
        warmup_iterations=0,
        repeat=0,
        seed=0,
        device="cuda" if gpus else "cpu",
        gpu_type=cluster.gpu_type if gpus else None,
        image=cluster.runtime.image,
    )


def _run(cluster: Cluster, run: RunDir, say: Callable[[str], None]) -> list[Finding]:
    """Run the script, here or as a job, to its end; return what it found, and why it failed if that says nothing."""
    code = _wait_for_job(run, say) if cluster.scheduler == "slurm" else _wait_for_script(run)
    found = findings.of_run(run)
    if code and not any(finding.state == "failure" for finding in found):
        lines = run.train_log.read_text(errors="replace").splitlines() if run.train_log.exists() else []
        errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
        text = errors[-1] if errors else f"ended with exit status {code}"
        end = " | ".join(line for line in lines if line.strip())[-600:]
        found.append(Finding(check="job", state="failure", text=text, fix=f"the end of its log: {end or 'empty'}"))
    return found


def _wait_for_script(run: RunDir) -> int:
    with run.train_log.open("ab") as log:
        command = ["bash", run.job_sh.name]
        return subprocess.run(
            command, cwd=run.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        ).returncode


def _wait_for_job(run: RunDir, say: Callable[[str], None]) -> int:
    from paceline.bench import slurm

    job = slurm.executor(run.path).submit_script(run).job_id
    say(f"job {job} checks the nodes; it waits in the queue like any other (Ctrl-C cancels it)")
    try:
        while True:
            state = slurm.job_states([job])[job]["State"].split()[0]
            if state not in slurm.MAY_CHANGE:
                return 0 if state == "COMPLETED" else 1
            time.sleep(1)
    except BaseException:
        slurm.cancel([job])
        raise
