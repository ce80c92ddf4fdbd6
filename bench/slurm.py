"""Slurm through submitit: submit our rendered script, ask for the state of all jobs at once, cancel.

submitit normally pickles a function into a script of its own. Here it hands over a script that a person can read and
run by hand, and its job objects track the job; the outcome of a run is in its sentinel, not in a pickle.
"""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Iterable
from typing import Any

from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.rundir import RunDir
from submitit.core import utils
from submitit.slurm import slurm

_LOG = logging.getLogger(__name__)

UNANSWERED = "UNANSWERED"
"""State of a job that Slurm could not be asked about; not a state of Slurm's."""
MAY_CHANGE = {
    "UNKNOWN",
    UNANSWERED,
    "PREEMPTED",  # may be requeued
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}


class QueueWatcher(slurm.SlurmInfoWatcher):
    """Knows the state of every registered job from one query for all of them.

    ``squeue`` answers for jobs that are queued, running or ended a few minutes ago, with or without an accounting
    database. Only jobs that it no longer lists are looked up with ``sacct``, where the site has it.
    """

    accounting: bool | None = None
    """Whether ``sacct`` answers; None until it was asked."""
    _listed: frozenset[str] = frozenset()

    def update(self) -> None:
        """Refresh the state of all registered jobs."""
        wanted = self._registered - self._finished
        if wanted:
            self._num_calls += 1
            self._info_dict.update(self._ask_queue(wanted))
            unlisted = wanted - self._listed
            if unlisted and self.accounting is not False:
                self._info_dict.update(self._ask_accounting(unlisted))
        self._last_status_check = time.time()
        for job in wanted:
            if self.is_done(job, mode="cache"):
                self._finished.add(job)

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Return whether a job's state is final (submitit takes a node that boots, CONFIGURING, for the end)."""
        return self.get_state(job_id, mode=mode).upper() not in MAY_CHANGE

    def _ask_queue(self, wanted: set[str]) -> dict[str, dict[str, str]]:
        answer = _run(["squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%N|%r"])
        if answer.returncode:
            # The controller may be restarting: keep what is known, ask again next time.
            _LOG.warning("squeue: %s", _first_line(answer.stderr))
            self._listed = frozenset(wanted)
            return {job: {"State": UNANSWERED} for job in wanted if job not in self._info_dict}
        states = {}
        for line in answer.stdout.splitlines():
            job, state, nodes, reason = [*line.split("|", 3), "", "", ""][:4]
            states[job] = {"JobID": job, "State": state, "NodeList": nodes, "Reason": reason}
        self._listed = frozenset(states)
        return {job: info for job, info in states.items() if job in wanted}

    def _ask_accounting(self, jobs: set[str]) -> dict[str, dict[str, str]]:
        answer = _run(
            ["sacct", "-X", "--duplicates", "--parsable2", "-o", "JobID,State,NodeList", "-j", ",".join(sorted(jobs))]
        )
        if answer.returncode:
            if "disabled" in answer.stderr:
                self.accounting = False
            return {}
        self.accounting = True
        found = self.read_info(answer.stdout)
        for info in found.values():
            info["State"] = info["State"].split()[0] if info["State"] else ""  # "CANCELLED by 0"
        return {job: info for job, info in found.items() if job in jobs}


class ScriptJob(slurm.SlurmJob[Any]):
    """A job that runs a rendered script; its outcome is the sentinel in its run folder."""

    watcher = QueueWatcher(delay_s=60)


class ScriptExecutor(slurm.SlurmExecutor):
    """submitit's Slurm executor for scripts that are already there."""

    job_class = ScriptJob

    def submit_script(
        self, run: RunDir, after: str | None = None, arguments: Iterable[str] = (), after_any: str | None = None
    ) -> ScriptJob:
        """Submit the run's job.sh from its folder and return the job.

        Args:
            run: Folder with job.sh; Slurm's output goes where the script's header says, relative to this folder.
            after: Job id that must end well first; if it does not, Slurm drops this job instead of keeping it for ever.
            arguments: Further ``sbatch`` arguments.
            after_any: Job id that must end first, however it ends.

        Raises:
            ClusterError: Slurm refuses the job; the message is Slurm's own.
        """
        command = ["sbatch", *arguments]
        waits = [f"{kind}:{job}" for kind, job in (("afterok", after), ("afterany", after_any)) if job is not None]
        if waits:
            command += [f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"]
        command.append(run.job_sh.name)
        try:
            output = utils.CommandFunction(command, verbose=False, cwd=run.path)()
        except utils.FailedJobError as error:
            raise ClusterError(f"Slurm refuses {run.job_sh}: {_slurm_message(str(error))}") from error
        return ScriptJob(folder=run.path, job_id=self._get_job_id_from_submission_command(output))


def executor(folder: Any) -> ScriptExecutor:
    """Return the executor for a study folder; LaunchError where there is no Slurm."""
    try:
        return ScriptExecutor(folder)
    except RuntimeError as error:
        raise LaunchError("no Slurm here: srun is not on PATH (use --cluster local, or a login node)") from error


def job_states(job_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return ``{job id: {"State", "NodeList", "Reason"}}`` of all given jobs, from one query.

    State is Slurm's word (PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT ...), UNKNOWN if Slurm knows the job
    no more. An unanswered query (controller down) gives the last known state.
    """
    jobs = [ScriptJob(folder=".", job_id=job_id) for job_id in sorted(set(job_ids))]
    if not jobs:
        return {}
    watcher = ScriptJob.watcher
    watcher.update_if_long_enough("force")
    return {job.job_id: {"State": "UNKNOWN", **watcher.get_info(job.job_id, mode="cache")} for job in jobs}


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs; those already gone are no error."""
    ids = sorted(set(job_ids))
    if ids:
        answer = _run(["scancel", *ids])
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise ClusterError(f"scancel: {_first_line(answer.stderr)}")


def likely_nodes(run: RunDir) -> list[str]:
    """Return the nodes that Slurm would give the run's script, as ``sbatch --test-only`` says; empty if it does not."""
    answer = _run(["sbatch", "--test-only", run.job_sh.name], cwd=str(run.path))
    found = re.search(r"\bon nodes (\S+)", answer.stderr)
    if answer.returncode or not found:
        return []
    return _run(["scontrol", "show", "hostnames", found.group(1)]).stdout.split()


def check_script(run: RunDir) -> str | None:
    """Return what ``sbatch --test-only`` objects to in the run's script, None if it would be accepted."""
    answer = _run(["sbatch", "--test-only", run.job_sh.name], cwd=str(run.path))
    return _slurm_message(answer.stderr) if answer.returncode else None


def _run(command: list[str], cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, cwd=cwd)
    except FileNotFoundError as error:
        raise LaunchError(f"{command[0]} is not on PATH: this is no Slurm login node") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer within 60 s")


def _slurm_message(text: str) -> str:
    """Return Slurm's own sentence out of an error text."""
    found = re.findall(r"(?:sbatch|allocation failure)?:? ?error: (.*)", text)
    return "; ".join(dict.fromkeys(line.strip() for line in found)) or _first_line(text)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
