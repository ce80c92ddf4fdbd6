"""Where files lie in a study folder. Only this module knows their names.

A leaf module: standard library only. docs/formats.md describes what the files hold.

    <study folder>/
        study.yaml cluster.yaml          as resolved
        code/paceline/...                snapshot of the code that the jobs run
        code/snapshot.json               content hash, git commit, dirty flag
        runs/<case_id>/attempt-<n>/      one RunDir, n from 1
        report/                          index.html report.md scaling.csv report.json
        run.lock                         held by the `paceline run` that drives the study
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paceline.bench import jsontext
from paceline.bench.errors import RecordError

_ATTEMPT = re.compile(r"attempt-([1-9]\d*)")
_CASE_ID = re.compile(r"[0-9a-f]{12}")


class RunDir:
    """One attempt at a case: the folder in which a job writes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def case_id(self) -> str:
        """Identifier of the case this is an attempt at."""
        return self.path.parent.name

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        match = _ATTEMPT.fullmatch(self.path.name)
        if match is None:
            raise RecordError(f"{self.path}: not a run folder (its name is not attempt-<n>)")
        return int(match.group(1))

    @property
    def case_json(self) -> Path:
        """The Case, as planned."""
        return self.path / "case.json"

    @property
    def job_sh(self) -> Path:
        """The rendered job script."""
        return self.path / "job.sh"

    @property
    def launch_json(self) -> Path:
        """How and when the attempt was started: launcher, job id."""
        return self.path / "launch.json"

    @property
    def attempt_json(self) -> Path:
        """What this attempt changes; a first attempt has none."""
        return self.path / "attempt.json"

    @property
    def train_log(self) -> Path:
        """Everything the job printed, all ranks."""
        return self.path / "train.log"

    @property
    def cooldown_json(self) -> Path:
        """How long the job waited for its GPUs to cool down before it started; absent if it did not have to."""
        return self.path / "cooldown.json"

    @property
    def result_json(self) -> Path:
        """The sentinel, written last."""
        return self.path / "result.json"

    @property
    def profile(self) -> Path:
        """Folder of what a profiler recorded; only profiled runs have it."""
        return self.path / "profile"

    @property
    def profiler_json(self) -> Path:
        """Which profiler recorded the run, and what it left."""
        return self.profile / "profiler.json"

    def captures(self) -> list[Path]:
        """What a profiler left to be analysed: SQLite exports of nsys, one a node, or Kineto traces, one a rank."""
        return sorted(self.profile.glob("nsys-*.sqlite")) or sorted(self.profile.glob("kineto-rank-*.json.gz"))

    def doctor_json(self, node: str) -> Path:
        """What the check of one node found before the training started; of all ranks together: ``allreduce``."""
        return self.path / f"doctor-{node}.json"

    def doctor_files(self) -> list[Path]:
        """Findings of all nodes that were checked."""
        return sorted(self.path.glob("doctor-*.json"))

    def rank_jsonl(self, rank: int) -> Path:
        """Record of one rank (global rank)."""
        return self.path / f"rank-{rank:04d}.jsonl"

    def rank_files(self) -> list[Path]:
        """Records of all ranks that wrote one, by rank."""
        return sorted(self.path.glob("rank-[0-9][0-9][0-9][0-9].jsonl"))

    def samples_jsonl(self, node: str) -> Path:
        """Samples taken on one node."""
        return self.path / f"samples-{node}.jsonl"

    def stacks_txt(self, node: str) -> Path:
        """Where each rank of a node was when it hung; only runs that hung have it."""
        return self.path / f"stacks-{node}.txt"

    def watchdog_json(self, node: str) -> Path:
        """That the watchdog of a node ended the run, and why; absent if it did not have to."""
        return self.path / f"watchdog-{node}.json"

    def watchdog_files(self) -> list[Path]:
        """What the watchdogs of all nodes wrote."""
        return sorted(self.path.glob("watchdog-*.json"))

    def samples_files(self) -> list[Path]:
        """Samples of all nodes that wrote some."""
        return sorted(self.path.glob("samples-*.jsonl"))


class StudyDir:
    """A study folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def study_yaml(self) -> Path:
        """The study as resolved: every value stated."""
        return self.path / "study.yaml"

    @property
    def cluster_yaml(self) -> Path:
        """The cluster profile as resolved."""
        return self.path / "cluster.yaml"

    @property
    def code(self) -> Path:
        """Import root of the code snapshot (its child is ``paceline``)."""
        return self.path / "code"

    @property
    def snapshot_json(self) -> Path:
        """Content hash and origin of the code snapshot."""
        return self.code / "snapshot.json"

    @property
    def sweep_json(self) -> Path:
        """Of an environment sweep: what each point turned out to be, and what ended the sweep."""
        return self.path / "sweep.json"

    @property
    def lock(self) -> Path:
        """Lock file of the process that drives the study."""
        return self.path / "run.lock"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.path / "runs"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    @property
    def profile(self) -> Path:
        """Folder of the trace reports, and of the scrubbed exports that they were made from."""
        return self.path / "profile"

    def run(self, case_id: str, attempt: int) -> RunDir:
        """Return the folder of one attempt, whether or not it exists."""
        return RunDir(self.runs / case_id / f"attempt-{attempt}")

    def attempts(self, case_id: str) -> list[RunDir]:
        """Return the attempts that exist for a case, oldest first."""
        folder = self.runs / case_id
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        numbers = sorted(int(match.group(1)) for match in map(_ATTEMPT.fullmatch, names) if match)
        return [self.run(case_id, number) for number in numbers]

    def case_ids(self) -> list[str]:
        """Return the cases that have a folder, in alphabetical order."""
        try:
            return sorted(name for name in os.listdir(self.runs) if _CASE_ID.fullmatch(name))
        except FileNotFoundError:
            return []

    def all_runs(self) -> Iterator[RunDir]:
        """Yield every attempt of every case."""
        for case_id in self.case_ids():
            yield from self.attempts(case_id)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the whole of it or nothing (temporary file, fsync, rename)."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        follow_umask(temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def follow_umask(path: str | os.PathLike[str]) -> None:
    """Give a file that mkstemp made (private) the mode of any other: the user's umask decides who may read it."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; RecordError if it is damaged or no object, FileNotFoundError if absent."""
    try:
        data = jsontext.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecordError(f"{path}: expected a JSON object")
    return data
