"""The script that measures a whole host within a fixed time: what runs beside what, and when it stops."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from paceline.analysis.load import load_study
from paceline.analysis.summary import run_arrays, summarise
from paceline.bench import launch, snapshot
from paceline.bench.cluster import load_cluster
from paceline.bench.launch import JobSide
from paceline.bench.local import LocalRun
from paceline.bench.plan import make_plan
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, read_json

from tests.gpu import host_curves
from tests.gpu.host_curves import STUDIES, Batch, Host, drive, open_studies, order, pack, places
from tests.gpu.kept_records import keep_records, thin


def host(size: int, seconds: float = 3600.0) -> Host:
    cores = tuple(frozenset({2 * index, 2 * index + 1}) for index in range(size))
    return Host(tuple(range(size)), cores, time.monotonic() + seconds)


def open_curves(folder: Path, where: Host, device: str, repeats: int) -> dict[str, launch.OpenStudy]:
    return open_studies(folder, where, device, load_cluster("local"), STUDIES, {"repeats": str(repeats)})


def cases(folder: Path, size: int, repeats: int = 3) -> dict[str, tuple[Case, ...]]:
    opened = open_curves(folder, host(size), "cuda", repeats)
    return {name: study.plan.cases for name, study in opened.items()}


@pytest.mark.parametrize(
    ("size", "batches"),
    [(8, [[8], [4, 2, 1]]), (4, [[4], [2, 1]]), (2, [[2], [1]]), (1, [[1]]), (3, [[2, 1]])],
)
def test_small_runs_share_the_host(tmp_path: Path, size: int, batches: list[list[int]]) -> None:
    for name, found in cases(tmp_path, size).items():
        own = [case for case in found if case.repeat == 1]
        assert [[case.world_size for case in batch] for batch in pack(own, size, alone=False)] == batches, name
        assert all(len(batch) == 1 for batch in pack(own, size, alone=True))


def test_eight_gpus_take_twelve_batches_with_repeats_outermost(tmp_path: Path) -> None:
    found = order(cases(tmp_path, 8), 8, alone=False)
    assert len(found) == 12
    assert [repeat for _, repeat, _ in found] == [0] * 4 + [1] * 4 + [2] * 4
    assert sum(len(batch) for _, _, batch in found) == 2 * 4 * 3
    first = [
        [(name, [case.world_size for case in batch]) for name, r, batch in found if r == repeat] for repeat in (0, 1)
    ]
    assert first[1] == first[0][::-1]


@pytest.mark.parametrize("ant", ["strong_ant_rsl_rl", "strong_ant_rsl_rl_other_host"])
def test_eight_gpus_need_less_than_nine_minutes(tmp_path: Path, repository: Path, ant: str) -> None:
    """From the times of recorded runs on H200: Cartpole as much slower on the slower host as Ant is there, and a tenth
    more for eight ranks, which no record has."""
    records = repository / "tests/data/h200"
    times = {"strong_ant": run_times(records / ant), "weak_cartpole": run_times(records / "weak_cartpole_rl_games")}
    quick, this = (run_times(records / folder)[4] for folder in ("strong_ant_rsl_rl", ant))

    def expected_s(name: str, case: Case) -> float:
        begin_s, iteration_s = times[name][min(case.world_size, 4)]
        if name == "weak_cartpole":
            begin_s, iteration_s = begin_s * this[0] / quick[0], iteration_s * this[1] / quick[1]
        return (1.1 if case.world_size == 8 else 1.0) * (begin_s + case.iterations * iteration_s)

    batches = order(cases(tmp_path, 8), 8, alone=False)
    each_s = [max(expected_s(name, case) for case in batch) for name, _, batch in batches]
    warmup_s = 20.0
    assert warmup_s + sum(each_s[:-1]) + host_curves.MARGIN * max(each_s) < 9 * 60 - host_curves.STOP_S


def run_times(folder: Path) -> dict[int, tuple[float, float]]:
    """Return by world size, of the slowest run: seconds from the script's start to the second iteration, and seconds of
    each iteration from then on. The clock of a record starts 11 s after the script where an all-reduce is tried first,
    4 s on one GPU."""
    found: dict[int, list[tuple[float, float]]] = {}
    for run in StudyDir(folder).all_runs():
        case = Case.from_json(read_json(run.case_json))
        rows = [json.loads(line) for line in run.rank_jsonl(0).read_text().splitlines()]
        rows = [row for row in rows if isinstance(row, list)]
        if case.kind != "warmup":
            begin_s, end_s = rows[0][3] + rows[0][4], rows[-1][3] + rows[-1][4]
            before_s = 11.0 if case.world_size > 1 else 4.0
            found.setdefault(case.world_size, []).append((before_s + begin_s, (end_s - begin_s) / (len(rows) - 1)))
    return {size: (max(a for a, _ in own), max(b for _, b in own)) for size, own in found.items()}


@pytest.mark.parametrize("repeat", [0, 1])
def test_runs_of_a_batch_share_neither_gpus_nor_cores(tmp_path: Path, repeat: int) -> None:
    for _, _, batch in order(cases(tmp_path, 8, 1), 8, alone=False):
        found = places(batch, host(8), repeat)
        used = [gpu for place in found for gpu in place.gpus]
        assert len(used) == len(set(used)) == sum(case.world_size for case in batch)
        cores = [core for place in found for core in place.cores]
        assert len(cores) == len(set(cores)) == 2 * len(used)
        for case, place in zip(batch, found, strict=True):
            assert len(place.gpus) == case.world_size


JOB = """#!/bin/bash
echo "$CUDA_VISIBLE_DEVICES" >visible
exec {python} -c '
import json, os, sys, time
print(sorted(os.sched_getaffinity(0)))
time.sleep({seconds})
'
"""


def test_no_batch_starts_that_would_not_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        host_curves, "render_job", lambda *a: JOB.format(python=sys.executable, seconds=1.0)
    )  # a job of a known length in the place of the training
    monkeypatch.setattr(host_curves, "FIRST_GUESS_S", 2.0)
    monkeypatch.setattr(host_curves, "STOP_S", 1.0)
    monkeypatch.setattr(host_curves, "POLL_S", 0.05)
    here = Host((), tuple(frozenset({0}) for _ in range(3)), time.monotonic() + 6.5)
    opened = open_curves(tmp_path, here, "cpu", 3)
    complete = drive(opened, here, JobSide(python="x", asset_root=None), False, tmp_path)
    told = capsys.readouterr().out
    assert not complete
    assert time.monotonic() < here.deadline
    assert "left out, no time for it" in told
    assert "12 runs are missing; called again, this goes on with them" in told
    batches = read_json(tmp_path / "batches.json")["batches"]
    assert 2 <= len(batches) < 7
    assert [run["world_size"] for run in batches[1]["runs"]] == [2, 1]
    for batch in batches:
        for run in batch["runs"]:
            attempt = StudyDir(tmp_path / run["study"]).attempts(run["case_id"])[-1]
            assert attempt.train_log.read_text() == "[0]\n"
            assert read_json(attempt.launch_json)["cores"] == [0]


def test_what_runs_when_the_time_is_up_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_curves, "render_job", lambda *a: JOB.format(python=sys.executable, seconds=60.0))
    monkeypatch.setattr(host_curves, "STOP_S", 0.5)
    here = Host((), (frozenset({0}), frozenset({0})), time.monotonic() + 1.5)
    opened = open_curves(tmp_path, here, "cpu", 1)
    began = time.monotonic()
    assert not drive(opened, here, JobSide(python="x", asset_root=None), False, tmp_path)
    assert time.monotonic() - began < 10.0


def test_each_variant_comes_to_each_gpu(tmp_path: Path, repository: Path) -> None:
    """Of the studies that measure levers: one GPU beside each other, four GPUs alone, interleaved."""
    files = [repository / "tests/gpu" / name for name in ("levers_4_gpus.yaml", "levers_1_gpu.yaml")]
    texts = {path.stem: path.read_text() for path in files}
    opened = open_studies(tmp_path, host(4), "cuda", load_cluster("local"), texts, {})
    batches = order({name: study.plan.cases for name, study in opened.items()}, 4, alone=False)
    assert [len(batch) for _, _, batch in batches] == [1, 1, 1, 4, 4, 1, 1, 1] * 2
    one = [(batch, repeat) for name, repeat, batch in batches if name == "levers_1_gpu"]
    met = {(c.levers, p.gpus) for batch, k in one for c, p in zip(batch, places(batch, host(4), k), strict=True)}
    assert len(met) == 4 * 4
    firsts = {batch[0].levers for name, _, batch in batches[::4] if name == "levers_4_gpus"}
    assert len(firsts) > 1


ENDING = """#!/bin/bash
echo '{{"type":"header"}}' >rank-0000.jsonl
echo '{{"type":"end","status":"completed"}}' >>rank-0000.jsonl
exec {python} -c 'import time; time.sleep({seconds})'
"""


def test_the_next_batch_does_not_wait_for_processes_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_curves, "render_job", lambda *a: ENDING.format(python=sys.executable, seconds=30.0))
    monkeypatch.setattr(host_curves, "POLL_S", 0.05)
    here = Host((), (frozenset({0}),), time.monotonic() + 60.0)
    opened = open_curves(tmp_path, here, "cpu", 1)["strong_ant"]
    case = next(case for case in opened.plan.cases if case.world_size == 1)
    batch = Batch([(opened, case, here.place(0, 1))], here, JobSide(python="x", asset_root=None))
    assert batch.wait(to_the_end=False) < 5.0
    batch.stop()
    assert batch.facts()["runs"][0]["case_id"] == case.case_id


def test_kept_records_hold_no_code_and_no_paths(tmp_path: Path, repository: Path) -> None:
    source = repository / "tests/data/h200/strong_ant_rsl_rl"
    study = launch.open_study(source)
    site = study.cluster.model_copy(update={"python": "/site/of/me/python", "setup": ("source /site/of/me/x",)})
    folder = tmp_path / "study"
    opened = launch.create(folder, study.study, site)
    snapshot.take(opened.directory)
    case = make_plan(study.study, site).cases[0]
    run = opened.directory.run(case.case_id, 1)
    run.path.mkdir(parents=True)
    for path in StudyDir(source).run(case.case_id, 1).path.iterdir():
        (run.path / path.name).write_bytes(path.read_bytes())
    run.job_sh.write_text("cd /site/of/me")
    run.train_log.write_text("/site/of/me")
    keep_records(opened, tmp_path / "kept")
    keep_records(opened, tmp_path / "kept")
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert not any("/site/of/me" in path.read_text() for path in kept)
    original = {path.name for path in StudyDir(source).run(case.case_id, 1).path.iterdir()}
    assert {path.name for path in kept} == original | {"study.yaml", "cluster.yaml"}

    # Samples of the start are left out, and nothing that is computed from them changes.
    (samples,) = run.samples_files()
    text, ranks = samples.read_text(), run.rank_files()
    early = json.loads(text.splitlines()[1]) | {"t_s": 0.1}
    samples.write_text(text.replace("\n", f"\n{json.dumps(early)}\n", 1))
    assert thin(samples.read_text(), ranks) == thin(text, ranks)
    assert thin(text, []) == text
    before, after = (summaries(place).iloc[0] for place in (folder, tmp_path / "kept"))
    for name in ("power_w", "gpu_util_pct", "sm_clock_mhz", "total_fps"):
        assert before[name] == after[name], name


def summaries(folder: Path) -> pd.DataFrame:
    loaded = load_study(folder)
    return summarise(loaded, run_arrays(loaded))


def test_a_run_sees_its_gpus_and_cores_only(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "0123456789ab" / "attempt-1")
    run.path.mkdir(parents=True)
    core = min(os.sched_getaffinity(0))
    run.job_sh.write_text(JOB.format(python=sys.executable, seconds=0))
    process = LocalRun(run, gpus=(2, 3), cores={core})
    while process.poll() is None:
        time.sleep(0.01)
    assert (run.path / "visible").read_text() == "2,3\n"
    assert run.train_log.read_text() == f"[{core}]\n"
    told = read_json(run.launch_json)
    assert (told["gpus"], told["cores"]) == ([2, 3], [core])
