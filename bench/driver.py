"""Starts what is missing in a study, follows it to the end, and cancels it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from paceline.bench import local, render, snapshot
from paceline.bench.display import Display
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.launch import JobSide, OpenStudy
from paceline.bench.record import LAUNCH_SCHEMA, Case, Result
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.bench.status import UNFINISHED, CaseStatus


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
            return opened.status() if _settle(opened, statuses) else statuses
        time.sleep(interval_s)
        interval_s = min(15.0, interval_s * 1.2)  # a controller serves a whole site: ask less often as time goes on


def _settle(opened: OpenStudy, statuses: Sequence[CaseStatus]) -> bool:
    """Write the sentinel of runs that could not write their own, with what Slurm says became of them; True if any.

    A job that is killed at once leaves none, and Slurm forgets: the report, made anywhere and later, must still know.
    """
    settled = False
    for status in statuses:
        if status.state not in ("failed", "interrupted", "cancelled") or status.attempt is None:
            continue
        run = opened.directory.run(status.case.case_id, status.attempt)
        if run.result_json.exists():
            continue
        now = time.time()
        launched = read_json(run.launch_json).get("submitted_unix_s", now)
        result = Result(
            case_id=status.case.case_id,
            attempt=status.attempt,
            status="failed" if status.state == "failed" else "interrupted",
            cause=status.cause,
            message=status.message,
            exit_code=None,
            ranks_expected=status.case.world_size,
            ranks_completed=(),
            start_unix_s=launched,
            end_unix_s=now,
            job_id=status.job_id,
            extra={"written_by": "watcher"},
        )
        write_json(run.result_json, result.to_json())
        settled = True
    return settled


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
