"""Starts what is missing in a study, follows it to the end, and cancels it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from paceline.bench import allocation, local, profile, render, snapshot
from paceline.bench.display import Display, case_label, note
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.launch import JobSide, OpenStudy
from paceline.bench.record import Case
from paceline.bench.resolve import SITE_LIMITS
from paceline.bench.retries import max_attempts, next_attempt, why_not
from paceline.bench.rundir import RunDir, read_json
from paceline.bench.runfolder import next_run, write_launch, write_run
from paceline.bench.settle import settle
from paceline.bench.status import UNFINISHED, CaseStatus, study_status

if TYPE_CHECKING:
    from paceline.bench.slurm import ScriptExecutor


class Driver:
    """Starts what is missing in a study and follows it to the end."""

    def __init__(self, opened: OpenStudy, job_side: JobSide, display: Display) -> None:
        self._opened = opened
        self._job_side = job_side
        self._display = display
        self._refused: set[str] = set()
        """Cases whose next attempt Slurm did not take."""

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
        settle(self._opened, self._opened.status())  # what could not be written when it happened
        if self._opened.cluster.scheduler == "slurm":
            self._submit(self._to_start(wanted))
            return follow(self._opened, self._display, lambda statuses: self.repeat(statuses, wanted))
        return self._run_locally(wanted)

    def repeat(
        self, statuses: Sequence[CaseStatus], wanted: Callable[[CaseStatus], bool] = lambda status: True
    ) -> bool:
        """Submit the next attempt at every case whose failure is repeated without being asked; return if there is one.

        Cases that never started because the warm-up failed wait for the warm-up's next attempt.
        """
        again = {status.case.case_id for status in statuses if wanted(status) and not why_not(self._opened, status)}
        if not any(s.case.kind == "warmup" and (s.done or s.case.case_id in again) for s in statuses):
            again -= {status.case.case_id for status in statuses if status.cause == "dependency"}
        pending = self._to_start(lambda status: status.case.case_id in again - self._refused)
        if not pending:
            return False
        for status in pending:
            self._tell(status)
        try:
            self._submit(pending)
        except ClusterError as error:
            self._display.say(f"not repeated: {error}")
            self._refused |= again
            for status in pending:
                prepared = self._opened.directory.attempts(status.case.case_id)[-1]
                if not prepared.launch_json.exists():
                    shutil.rmtree(prepared.path, ignore_errors=True)
            return False
        return True

    def _tell(self, status: CaseStatus) -> None:
        changes = next_attempt(self._opened, status)
        what = [f"with {', '.join(changes.overrides)}"] if changes and changes.overrides else []
        what += [f"not on {', '.join(changes.exclude)}"] if changes and changes.exclude else []
        self._display.say(
            f"{case_label(status)}: {note(status)}; attempt {(status.attempt or 0) + 1} of "
            f"{max_attempts(self._opened)} {' '.join(what)}".rstrip()
        )

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
            statuses = self._attempt_locally(status)
            while not why_not(self._opened, status := _same_case(statuses, status)):
                self._tell(status)
                statuses = self._attempt_locally(status)
            if status.case.kind == "warmup" and not statuses[0].done:
                break  # what stops the warm-up stops every case
        return self._opened.status()

    def _attempt_locally(self, status: CaseStatus) -> list[CaseStatus]:
        """Make the next attempt at a case on this machine, and return the state of all cases."""
        run = self._new_attempt(status)
        process = local.LocalRun(run)
        try:
            while process.poll() is None:
                self._display.show(self._opened.status())
                time.sleep(0.5)
        except BaseException:
            self._display.say(f"ending {run.path.name} of case {run.case_id} ...")
            process.stop()
            raise
        if not run.result_json.exists():
            local.wait_until_gone(run)
        statuses = self._opened.status()
        if settle(self._opened, [_same_case(statuses, status)]):
            statuses = self._opened.status()
        self._display.show(statuses)
        return statuses

    def _submit(self, pending: Sequence[CaseStatus]) -> None:
        from paceline.bench import slurm

        executor = slurm.executor(self._opened.directory.path)
        runs = [(status.case, self._new_attempt(status)) for status in pending]
        self._check_scripts(runs)
        cluster = self._opened.cluster
        if cluster.placement == "one-allocation" and runs:
            self._submit_together(executor, runs)
            return
        nodes = self._nodes(runs)
        submitted: list[str] = []
        # A job waits for the warm-up of its own kind of node.
        warm = {
            _place(s.case): s.job_id for s in self._opened.status() if s.case.kind == "warmup" and s.state in UNFINISHED
        }
        for case, run in runs:
            job = executor.submit_script(
                run,
                after=warm.get(_place(case)) if case.kind != "warmup" else None,
                after_any=allocation.dependency(submitted, cluster.max_jobs),
                arguments=allocation.pinned(nodes, case),
            )
            submitted.append(job.job_id)
            write_launch(run, job.job_id)
            if case.kind == "warmup":
                warm[_place(case)] = job.job_id
        if runs:
            self._display.say(f"submitted {len(runs)} jobs; Ctrl-C leaves them queued")

    def _submit_together(self, executor: ScriptExecutor, runs: Sequence[tuple[Case, RunDir]]) -> None:
        """Submit one job that makes all runs one after the other on the same nodes."""
        limit_min = self._opened.study.time_limit_min or self._opened.cluster.time_limit_min
        together = allocation.prepare(self._opened.directory, self._opened.cluster, runs, limit_min)
        job = executor.submit_script(together)
        for _, run in runs:
            write_launch(run, job.job_id)
        self._display.say(
            f"submitted one job for {len(runs)} runs; Ctrl-C leaves it queued (script: {together.job_sh})"
        )

    def _nodes(self, runs: Sequence[tuple[Case, RunDir]]) -> list[str]:
        """Return the nodes that all runs are put on, empty if Slurm is to choose for each."""
        from paceline.bench import slurm

        cluster = self._opened.cluster
        if not cluster.same_nodes or cluster.nodelist or not runs:
            return []
        nodes = slurm.likely_nodes(allocation.most(runs)[1])
        self._display.say(
            f"all runs on {', '.join(nodes)}" if nodes else "Slurm does not say which nodes it would take"
        )
        return nodes

    def _check_scripts(self, runs: Sequence[tuple[Case, RunDir]]) -> None:
        from paceline.bench import slurm

        seen: set[tuple[object, ...]] = set()
        for case, run in runs:
            asks_for = (case.world_size, case.num_nodes, *_place(case))
            if asks_for not in seen:
                seen.add(asks_for)
                objection = slurm.check_script(run)
                if objection:
                    raise ClusterError(
                        f"Slurm would refuse the job for {case.world_size} rank(s) on {case.num_nodes} node(s): "
                        f"{objection} (script: {run.job_sh})"
                    )

    def _new_attempt(self, status: CaseStatus) -> RunDir:
        case, directory, study = status.case, self._opened.directory, self._opened.study
        changes = next_attempt(self._opened, status)
        stated = {name: value for name in SITE_LIMITS if (value := getattr(study, name)) is not None}
        cluster = self._opened.cluster.model_copy(update=stated)
        if changes and changes.cause == "cache":
            # What damaged the site's cache is not known: this attempt compiles for itself.
            cluster = cluster.model_copy(update={"cache_dir": str(directory.path / "cache")})
        if changes and changes.exclude:
            exclude = ",".join(filter(None, (cluster.exclude, *changes.exclude)))
            cluster = cluster.model_copy(update={"exclude": exclude})
        run = next_run(directory, case.case_id)
        script = render.render_job(
            case,
            cluster,
            directory,
            run.attempt,
            python=self._job_side.python,
            asset_root=self._job_side.asset_root,
            time_limit_min=study.time_limit_min,
        )
        write_run(run, case, script, changes)
        return run


def _place(case: Case) -> tuple[object, ...]:
    """Return what decides on which nodes a case may run."""
    return (case.gpu_type, *case.placement)


def _same_case(statuses: Sequence[CaseStatus], wanted: CaseStatus) -> CaseStatus:
    return next(status for status in statuses if status.case.case_id == wanted.case.case_id)


def follow(
    opened: OpenStudy, display: Display, repeat: Callable[[Sequence[CaseStatus]], bool] = lambda statuses: False
) -> list[CaseStatus]:
    """Show a study until nothing of it is queued or running any more; return the state of all cases.

    Args:
        opened: The study.
        display: Where to show it.
        repeat: Is given the state of all cases whenever some have ended; starts next attempts, and says if it did.
    """
    interval_s = 1.0
    while True:
        statuses = opened.status()
        display.show(statuses)
        if settle(opened, statuses):
            statuses = opened.status()
            display.show(statuses)
        if repeat(statuses):
            interval_s = 1.0
            continue
        if not any(status.state in UNFINISHED for status in statuses):
            return statuses
        time.sleep(interval_s)
        interval_s = min(15.0, interval_s * 1.2)  # a controller serves a whole site: ask less often as time goes on


def cancel(opened: OpenStudy) -> list[CaseStatus]:
    """Cancel everything of a study that is queued or running, profiled runs included; return what was cancelled."""
    cases = (*opened.cases, *profile.cases_of(opened.directory))
    active = [status for status in study_status(opened.directory, cases) if status.state in UNFINISHED]
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
