"""Copies of a study's records that are small enough to be kept: docs/findings.yaml lists them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from paceline.bench import cluster as clusters
from paceline.bench.launch import OpenStudy
from paceline.bench.rundir import RunDir

KEPT = ("case.json", "launch.json", "result.json")  # of a run, beside its records and samples


def keep_records(study: OpenStudy, target: Path) -> None:
    """Copy what a study's analysis needs: no code, scripts, logs or site paths. An earlier copy is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile(study.directory.study_yaml, target / "study.yaml")
    auto = {"python": "auto", "asset_root": "auto", "cache_dir": None, "results": "outputs"}
    told = study.cluster.model_copy(update=auto | {"setup": ()})
    (target / "cluster.yaml").write_text(clusters.to_yaml(told), encoding="utf-8")
    for run in study.directory.all_runs():
        own = RunDir(target / "runs" / run.case_id / run.path.name)
        own.path.mkdir(parents=True)
        for path in (*(run.path / name for name in KEPT), *run.rank_files()):
            if path.exists():
                shutil.copyfile(path, own.path / path.name)
        for path in run.samples_files():
            text = thin(path.read_text(encoding="utf-8"), run.rank_files())
            (own.path / path.name).write_text(text, encoding="utf-8")


def thin(samples: str, ranks: Sequence[Path]) -> str:
    """Return the samples of one node from the first iteration to the last, the use of each core in whole percents.

    What is computed from a run's samples comes from those seconds. Without an iteration they are returned as they are.
    """
    begin_s, end_s = math.inf, -math.inf
    for path in ranks:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [line for line in lines if isinstance(line, list)]
        if rows:
            origin, at = lines[0]["clock_origin_unix_s"], lines[0]["columns"].index
            begin_s = min(begin_s, origin + rows[0][at("start_s")])
            end_s = max(end_s, origin + rows[-1][at("start_s")] + rows[-1][at("iteration_time_s")])
    head, *lines = samples.splitlines()
    origin, kept = json.loads(head)["clock_origin_unix_s"], [head]
    for line in lines if end_s > begin_s else ():
        sample = json.loads(line)
        if "cpu_pct" in sample:
            sample["cpu_pct"] = [None if use is None else round(use) for use in sample["cpu_pct"]]
        if "t_s" not in sample or begin_s <= origin + sample["t_s"] <= end_s:
            kept.append(json.dumps(sample, separators=(",", ":")))
    return "\n".join(kept) + "\n" if end_s > begin_s else samples
