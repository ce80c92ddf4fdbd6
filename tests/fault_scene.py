"""A study folder whose training goes wrong as told (programs/small_training.py), and the command line."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench import launch, snapshot
from paceline.bench.cluster import load_cluster
from paceline.bench.record import Result
from paceline.bench.rundir import RunDir, StudyDir, read_json
from paceline.bench.study import Study, resolve

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "integration" / "programs" / "small_training.py"
TOKEN = "hf_" + "PlantedToken0123456789"


@dataclass
class Site:
    """A study folder whose training goes wrong as told, and the command line."""

    command: Path
    folder: Path
    profile: Path
    environment: dict[str, str]

    def prepare(self, faults: dict[str, str], repeats: int, **values: Any) -> StudyDir:
        """Make the study folder, with the small training in its copy of the code."""
        cluster = load_cluster(self.profile)
        stated: dict[str, Any] = {
            "name": "faults", "kind": "strong", "device": "cpu", "task": "Isaac-Cartpole-Direct", "world_sizes": (2,),
            "num_envs": 64, "iterations": 8, "warmup_iterations": 2, "sync_every": 0, "repeats": repeats,
            "stall_s": 120, "exit_grace_s": 60, "max_attempts": 2,
        }  # fmt: skip
        study = resolve(Study(**(stated | values)), cluster, 0)
        opened = launch.create(self.folder, study, cluster)
        snapshot.take(opened.directory)
        (opened.directory.code / "paceline" / "bench" / "worker.py").write_bytes(PROGRAM.read_bytes())
        (self.folder / "faults.json").write_text(json.dumps(faults))
        return opened.directory

    def paceline(self, *arguments: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.command, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def status(self) -> list[dict[str, Any]]:
        done = self.paceline("status", self.folder, "--format", "json")
        assert done.returncode == 0, done.stderr
        return [row for row in json.loads(done.stdout) if row["kind"] != "warmup"]


def attempts(study: StudyDir, repeat: int) -> list[tuple[RunDir, Result]]:
    """Return the attempts at one repeat with their sentinels."""
    for case_id in study.case_ids():
        runs = study.attempts(case_id)
        case = read_json(runs[0].case_json)
        if case["kind"] != "warmup" and case["repeat"] == repeat:
            return [(run, Result.from_json(read_json(run.result_json))) for run in runs]
    raise AssertionError(f"repeat {repeat} has no run")


def check_table(study: StudyDir) -> dict[str, list[tuple[str, str | None]]]:
    """Check that the report's table has each attempt as its sentinel does; return status and cause of all, by kind."""
    told: dict[tuple[str, int], tuple[str, str | None]] = {}
    kinds: dict[str, list[tuple[str, str | None]]] = {}
    with (study.report / "runs.csv").open(newline="") as stream:
        for row in sorted(csv.DictReader(stream), key=lambda row: int(row["attempt"])):
            told[row["case_id"], int(row["attempt"])] = found = row["status"], row["cause"] or None
            kinds.setdefault(row["kind"], []).append(found)
    results = [(run, Result.from_json(read_json(run.result_json))) for run in study.all_runs()]
    assert told == {(run.case_id, run.attempt): (result.status, result.cause) for run, result in results}
    return kinds


def read(path: Path) -> str:
    return path.read_text(errors="replace")
