"""Drives a study: its folder, the attempts at its cases, and the launcher that runs them."""

from __future__ import annotations

import difflib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.bench import cluster as cluster_module
from paceline.bench import environment, local, render, snapshot
from paceline.bench import study as study_module
from paceline.bench.cluster import Cluster, load_cluster
from paceline.bench.display import Display
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.plan import Plan, make_plan
from paceline.bench.record import LAUNCH_SCHEMA, Case
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json
from paceline.bench.status import UNFINISHED, CaseStatus, study_status
from paceline.bench.study import Study, load_study

EXTENDABLE = frozenset({"repeats", "world_sizes", "name", "time_limit_min"})
"""Fields of a study that may change in a folder that already holds runs: they add cases or leave them as they are."""


@dataclass(frozen=True, kw_only=True)
class JobSide:
    """What jobs run with, as seen on the compute node."""

    python: str
    asset_root: str | None


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study folder with what is planned in it."""

    directory: StudyDir
    study: Study
    cluster: Cluster
    plan: Plan

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases in the order in which they start, the warm-up first."""
        return self.plan.all_cases

    def status(self) -> list[CaseStatus]:
        """Return the state of every case; asks the scheduler at most once."""
        return study_status(self.directory, self.cases)


def create(folder: Path, study: Study, cluster: Cluster) -> OpenStudy:
    """Make or reopen a study folder for a resolved study and return it.

    Raises:
        LaunchError: the folder holds another study, or cannot be written.
    """
    directory = StudyDir(folder.absolute())
    if directory.study_yaml.exists():
        _require_same_study(directory, study)
    elif directory.path.exists() and any(directory.path.iterdir()):
        raise LaunchError(f"{folder}: not a study folder and not empty; choose another with --folder")
    opened = OpenStudy(directory=directory, study=study, cluster=cluster, plan=make_plan(study, cluster))
    try:
        directory.runs.mkdir(parents=True, exist_ok=True)
        directory.cluster_yaml.write_text(cluster_module.to_yaml(cluster), encoding="utf-8")
        directory.study_yaml.write_text(
            study_module.to_yaml(study), encoding="utf-8"
        )  # last: it makes the folder a study folder
    except OSError as error:
        raise LaunchError(f"{folder}: cannot write the study folder ({error.strerror})") from error
    return opened


def open_study(folder: Path) -> OpenStudy:
    """Return the study that a folder holds; LaunchError if it holds none, StudyError if its files are not readable."""
    directory = StudyDir(folder.absolute())
    if not directory.study_yaml.exists():
        raise LaunchError(f"{folder}: not a study folder (it has no study.yaml)")
    cluster = load_cluster(directory.cluster_yaml)
    study = load_study(directory.study_yaml, {})
    return OpenStudy(directory=directory, study=study, cluster=cluster, plan=make_plan(study, cluster))


def _require_same_study(directory: StudyDir, study: Study) -> None:
    before = load_study(directory.study_yaml, {}).model_dump()
    after = study.model_dump()
    for key in after:
        if key not in EXTENDABLE and before.get(key) != after[key]:
            raise LaunchError(
                f"{directory.path}: holds another study ({key} is {before.get(key)!r} there and {after[key]!r} here); "
                "choose another folder with --folder"
            )


class Driver:
    """Starts what is missing in a study and follows it to the end."""

    def __init__(self, opened: OpenStudy, job_side: JobSide, display: Display) -> None:
        self._opened = opened
        self._job_side = job_side
        self._display = display

    def run(self, wanted: Callable[[CaseStatus], bool] = lambda status: True) -> list[CaseStatus]:
        """Bring every wanted case that has no completed run to an end, and return the state of all cases.

        Args:
            wanted: Which of the cases that are neither done nor under way to start.

        Raises:
            ClusterError: Slurm refuses a job. Nothing is submitted if any script of the study would be refused.
        """
        taken = snapshot.take(self._opened.directory)
        if not taken.current:
            self._display.say(
                f"note: the code has changed since this study began; its jobs keep running the snapshot "
                f"{taken.content_hash} in {self._opened.directory.code}"
            )
        if self._opened.cluster.scheduler == "slurm":
            self._submit(wanted)
            return follow(self._opened, self._display)
        return self._run_locally(wanted)

    def _to_start(self, wanted: Callable[[CaseStatus], bool]) -> list[CaseStatus]:
        statuses = self._opened.status()
        pending = [s for s in statuses if not s.done and s.state not in UNFINISHED and wanted(s)]
        # A warm-up alone serves nothing.
        return pending if any(s.case.kind != "warmup" for s in pending) else []

    def _run_locally(self, wanted: Callable[[CaseStatus], bool]) -> list[CaseStatus]:
        for status in self._opened.status():
            if status.state in UNFINISHED:
                raise LaunchError(
                    f"{self._opened.directory.path}: a run of this study is still going (process {status.job_id}); "
                    "`paceline watch` follows it, `paceline cancel` ends it"
                )
        for status in self._to_start(wanted):
            run = self._new_attempt(status.case)
            process = local.LocalRun(run)
            try:
                while process.poll() is None:
                    self._display.show(self._opened.status())
                    time.sleep(0.5)
            except BaseException:
                self._display.say(f"ending {run.path.name} of case {run.case_id} ...")
                process.stop()
                raise
            statuses = self._opened.status()
            self._display.show(statuses)
            if status.case.kind == "warmup" and not statuses[0].done:
                break  # what stops the warm-up stops every case
        return self._opened.status()

    def _submit(self, wanted: Callable[[CaseStatus], bool]) -> None:
        from paceline.bench import slurm

        executor = slurm.executor(self._opened.directory.path)
        pending = self._to_start(wanted)
        runs = [(status.case, self._new_attempt(status.case)) for status in pending]
        self._check_scripts(runs)
        warmup = next((s for s in self._opened.status() if s.case.kind == "warmup"), None)
        after = warmup.job_id if warmup and warmup.state in UNFINISHED else None
        for case, run in runs:
            job = executor.submit_script(run, after=after if case.kind != "warmup" else None)
            write_json(
                run.launch_json,
                {
                    "schema": LAUNCH_SCHEMA,
                    "launcher": "slurm",
                    "job_id": job.job_id,
                    "hostname": socket.gethostname(),
                    "submitted_unix_s": time.time(),
                },
            )
            if case.kind == "warmup":
                after = job.job_id
        if runs:
            self._display.say(f"submitted {len(runs)} jobs; Ctrl-C leaves them queued")

    def _check_scripts(self, runs: Sequence[tuple[Case, RunDir]]) -> None:
        from paceline.bench import slurm

        sizes: set[tuple[int, int]] = set()
        for case, run in runs:
            if (case.world_size, case.num_nodes) not in sizes:
                sizes.add((case.world_size, case.num_nodes))
                objection = slurm.check_script(run)
                if objection:
                    raise ClusterError(
                        f"Slurm would refuse the job for {case.world_size} rank(s) on {case.num_nodes} node(s): "
                        f"{objection} (script: {run.job_sh})"
                    )

    def _new_attempt(self, case: Case) -> RunDir:
        directory = self._opened.directory
        attempts = directory.attempts(case.case_id)
        if attempts and not attempts[-1].launch_json.exists() and not attempts[-1].result_json.exists():
            run = attempts[-1]  # prepared once and never started
        else:
            run = directory.run(case.case_id, attempts[-1].attempt + 1 if attempts else 1)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_json(run.case_json, case.to_json())
            script = render.render_job(
                case,
                self._opened.cluster,
                directory,
                run.attempt,
                python=self._job_side.python,
                asset_root=self._job_side.asset_root,
                time_limit_min=self._opened.study.time_limit_min,
            )
            run.job_sh.write_text(script, encoding="utf-8")
            run.job_sh.chmod(run.job_sh.stat().st_mode | 0o100)
        except OSError as error:
            raise LaunchError(f"{run.path}: cannot write the run folder ({error.strerror})") from error
        return run


def follow(opened: OpenStudy, display: Display) -> list[CaseStatus]:
    """Show a study until nothing of it is queued or running any more; return the state of all cases."""
    interval_s = 1.0
    while True:
        statuses = opened.status()
        display.show(statuses)
        if not any(status.state in UNFINISHED for status in statuses):
            return statuses
        time.sleep(interval_s)
        interval_s = min(15.0, interval_s * 1.2)  # a controller serves a whole site: ask less often as time goes on


def cancel(opened: OpenStudy) -> list[CaseStatus]:
    """Cancel everything of a study that is queued or running; return what was cancelled."""
    active = [status for status in opened.status() if status.state in UNFINISHED]
    jobs = [str(status.job_id) for status in active if status.job_id]
    if opened.cluster.scheduler == "slurm":
        from paceline.bench import slurm

        slurm.cancel(jobs)
    else:
        for status in active:
            assert status.attempt is not None
            run = opened.directory.run(status.case.case_id, status.attempt)
            local.cancel(read_json(run.launch_json))
    return active


def planned_python(cluster: Cluster) -> str:
    """Return the Python that jobs of a site run with: the profile's, or the one of Paceline's own environment."""
    if cluster.python != "auto":
        return cluster.python
    if cluster.runtime.kind != "none":
        return "python3"
    return str(environment.environment_python())


def job_side(cluster: Cluster, say: Callable[[str], None]) -> JobSide:
    """Return what jobs run with, after making what is Paceline's to make: the Isaac Lab environment and the assets.

    Nothing is made where the profile names a Python or an image. ``say`` gets lines of progress.

    Raises:
        LaunchError: the environment cannot be made; the message says what is missing.
    """
    own = cluster.python == "auto" and cluster.runtime.kind == "none"
    python = str(environment.ensure(say).python) if own else planned_python(cluster)
    if cluster.asset_root != "auto":
        return JobSide(python=python, asset_root=cluster.asset_root)
    root = environment.ensure_assets(Path(python), say) if own else None
    return JobSide(python=python, asset_root=str(root) if root else None)


def default_folder(study: Study, cluster: Cluster) -> Path:
    """Return where a study's folder goes when none is named: below the profile's results folder, named by content."""
    size = f"{study.num_envs}envs" if study.kind == "strong" else f"{study.num_envs_per_rank}envs-per-rank"
    return Path(cluster.results).expanduser() / f"{study.name}-{study.task}-{study.trainer}-{size}-{cluster.name}"


def find_folder(name: str) -> Path:
    """Return the study folder that a command names, by path or by its name below ./outputs; LaunchError if none is."""
    path = Path(name)
    if path.exists():
        return path
    outputs = Path("outputs")
    known = sorted(p.parent.name for p in outputs.glob("*/study.yaml")) if outputs.exists() else []
    if name in known:
        return outputs / name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"; did you mean outputs/{near[0]}?" if near else "; `paceline run` makes one"
    raise LaunchError(f"{name}: no such study folder{hint}")
