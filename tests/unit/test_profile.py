"""Profiled runs: which cases, with which profiler, and that their times never enter the study's report."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import profile_report
from paceline.analysis.load import load_study
from paceline.analysis.report import report_data
from paceline.bench import launch, profile, sentinel
from paceline.bench import study as study_module
from paceline.bench.cli import main
from paceline.bench.cluster import Cluster
from paceline.bench.display import case_label
from paceline.bench.errors import StudyError, TraceError
from paceline.bench.plan import make_plan
from paceline.bench.profile import Settings
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json
from paceline.bench.status import CaseStatus
from paceline.profiling import nsys, profiler

from tests.synthetic import Recipe, case_of, write_run, write_study
from tests.tracegen import synthetic

LOCAL = Cluster(name="here", scheduler="local")


def study(**changes: Any) -> study_module.Study:
    values: dict[str, Any] = {"name": "s", "kind": "strong", "task": "Isaac-Ant-Direct", "num_envs": 4096}
    values |= {"world_sizes": (1, 2, 4), "iterations": 60, "warmup_iterations": 15}
    return study_module.resolve(study_module.Study.model_validate(values | changes), LOCAL, 4)


def profiled_case(**changes: Any) -> Case:
    return profile.cases(study(**changes), LOCAL, Settings(world_sizes=(2,)))[0]


def test_one_gpu_and_all_of_them_three_iterations_after_the_warm_up() -> None:
    cases = profile.cases(study(), LOCAL, Settings())
    assert [case.world_size for case in cases] == [1, 4]
    for case in cases:
        assert (case.kind, case.profile_window, case.graph_trace, case.profiler) == (
            "profile",
            "15:18",
            "graph",
            "auto",
        )
        # Steady state only, no device-complete iterations among them, and the window closes before the run ends.
        assert (case.warmup_iterations, case.iterations, case.sync_every) == (15, 19, 0)
        assert case.num_envs == 4096
    assert [profile.label(case) for case in cases] == ["1-gpu-graph-15-18", "4-gpus-graph-15-18"]
    assert profile.comparison_label(cases) == "1-vs-4-gpus-graph-15-18"
    assert case_label(CaseStatus(case=cases[1], state="missing")) == "4 GPUs, profiled"


def test_a_profiled_case_is_none_of_the_study_and_depends_on_how_it_is_profiled() -> None:
    made = study()
    own = {case.case_id for case in make_plan(made, LOCAL).all_cases}
    settings = [Settings(), Settings(graph_trace="node"), Settings(window="20:21"), Settings(profiler="torch")]
    found = [case.case_id for each in settings for case in profile.cases(made, LOCAL, each)]
    assert len(set(found)) == len(found) and not own & set(found)


def test_sizes_need_not_be_points_of_the_curve() -> None:
    assert [case.world_size for case in profile.cases(study(world_sizes=(2, 4)), LOCAL, Settings())] == [1, 4]
    nodes = study(world_sizes=(2, 4)).model_copy(update={"num_nodes": 2, "world_sizes": (2, 4)})
    chosen = profile.cases(nodes, Cluster(name="c", scheduler="slurm", gpus_per_node=2), Settings())
    assert [(case.world_size, case.num_nodes) for case in chosen] == [(1, 1), (4, 2)]
    with pytest.raises(StudyError, match=r"--gpus 8: the study goes up to 4; --set world_sizes=4,8 extends it"):
        profile.cases(study(), LOCAL, Settings(world_sizes=(1, 8)))
    with pytest.raises(StudyError, match="--gpus 3: num_envs 4096 does not divide by world_size 3"):
        profile.cases(study(), LOCAL, Settings(world_sizes=(3,)))


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "5:5", "6:5", "-1:5", "a:b", "1:2:3", "0:99999999"])
def test_window_that_is_none(text: str) -> None:
    with pytest.raises(StudyError, match=r"--iterations .*: must be first:last"):
        profile.parse_window(text)


@pytest.mark.parametrize("text", ["0", "-1", "1,", "two", "1.5", "1;4", "\u0661"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(StudyError, match=r"--gpus .*: must be numbers of GPUs"):
        profile.parse_sizes(text)
    assert profile.parse_sizes("4, 1,4") == (1, 4)


def test_profiling_leaves_the_study_of_a_folder_as_it_is(tmp_path: Path) -> None:
    launch.create(tmp_path, study(world_sizes=(1, 2), repeats=5), LOCAL)
    before = StudyDir(tmp_path).study_yaml.read_text()
    opened = profile.open_study(tmp_path, study(world_sizes=(1, 2, 4)), LOCAL, Settings())
    assert [case.world_size for case in opened.plan.cases] == [1, 4]
    assert opened.plan.warmup == launch.open_study(tmp_path).plan.warmup  # runs once for both
    assert StudyDir(tmp_path).study_yaml.read_text() == before
    with pytest.raises(Exception, match="holds another study"):
        profile.open_study(tmp_path, study(num_envs=8192), LOCAL, Settings())


def test_profiled_runs_of_a_folder_are_found_and_damaged_ones_are_not(tmp_path: Path) -> None:
    directory = StudyDir(tmp_path)
    cases = [*profile.cases(study(), LOCAL, Settings()), *make_plan(study(), LOCAL).cases]
    for case in cases:
        run = directory.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
    damaged = directory.run(cases[0].case_id, 2)
    damaged.path.mkdir()
    damaged.case_json.write_text("{")
    assert profile.cases_of(directory) == [cases[1]]


def test_status_shows_profiled_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = profile.open_study(tmp_path, study(), LOCAL, Settings())
    run = opened.directory.run(opened.plan.cases[0].case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, opened.plan.cases[0].to_json())
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 GPU, profiled" in printed and "4 GPUs, repeat 3" in printed


def test_comparing_a_folder_with_nothing_but_profiled_runs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.open_study(tmp_path, study(), LOCAL, Settings())
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"paceline: {tmp_path}: holds no run with a total rate: nothing to compare\n"


def test_the_report_ignores_profiled_runs(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2), iterations=30, samples=False)
    write_study(tmp_path, recipe)
    before = report_data(tmp_path)
    fast = Recipe(world_sizes=(1, 2), iterations=30, samples=False, base_time_s=0.001)
    rng = np.random.default_rng(1)
    for size in (1, 2):
        run = StudyDir(tmp_path).run(case_of(fast, size, 0, "profile").case_id, 1)
        write_run(run, fast, size, 0, rng, 1_770_000_000.0, kind="profile")
    loaded = load_study(tmp_path)
    profiled = loaded.runs[loaded.runs["kind"] == "profile"]
    assert len(profiled) == 2 and not profiled["counts"].any()
    after = report_data(tmp_path)
    assert after["scaling"] == before["scaling"]


# ------------------------------------------------------------------------------------------------- on the compute node


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run folder of a profiled case, on a machine without nsys."""
    made = StudyDir(tmp_path / "study").run("0123456789ab", 1)
    made.path.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(nsys, "_PLACES", ())
    monkeypatch.setattr(nsys, "_MORE_PLACES", ())
    return made


def put_nsys(run: RunDir, version: str, profile_line: str) -> Path:
    """Put a program of that name on PATH: what these tests ask is what becomes of its answers."""
    path = run.path.parents[3] / "bin" / "nsys"
    path.write_text(
        f"#!/bin/bash\nif [ $1 = --version ]; then echo NVIDIA Nsight Systems version {version}; exit 0; fi\n"
        f"{profile_line}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_nsys_torch_profiler_fills_in(run: RunDir) -> None:
    assert profiler.choose(run, profiled_case()) is None
    facts = read_json(run.profiler_json)
    assert facts["profiler"] == profiler.chosen(run) == "torch"
    assert facts["note"].startswith("nsys is not installed on ") and facts["note"].endswith(": torch.profiler is used")
    assert stat.S_IMODE(run.profile.stat().st_mode) == 0o700  # what nsys writes there holds tokens


def test_nsys_that_is_insisted_on(run: RunDir) -> None:
    case = profile.cases(study(), LOCAL, Settings(profiler="nsys"))[0]
    with pytest.raises(TraceError, match="nsys is not installed"):
        profiler.choose(run, case)


def test_nsys_too_old_for_the_driver(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nsys(run, "2023.4.4.54", "exit 0")
    monkeypatch.setattr(profiler, "driver_version", lambda: "580.159.04")
    assert profiler.choose(run, profiled_case()) is None
    note = read_json(run.profiler_json)["note"]
    assert "nsys 2023.4.4.54 crashes programs that use CUDA with driver 580.159.04" in note and "\n" not in note


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("echo no permission >&2; exit 1", r"ends with 1\): no permission"),
        ("kill -SEGV $$", r"ends with -11\)"),
        ("exit 0", r"ends with 0\)"),  # and left no report
    ],
)
def test_nsys_that_does_not_work_here(run: RunDir, line: str, said: str) -> None:
    put_nsys(run, "2024.2.3.38", line)
    case = profiled_case()
    assert profiler.choose(run, case) is None
    assert re.search(said, read_json(run.profiler_json)["note"])


def test_an_nsys_that_fails_once_is_tried_again(run: RunDir) -> None:
    """As nsys does now and then where another version of it is at work on the node."""
    tries = run.path / "tries"
    report = 'for word; do case $word in --output=*) echo report > "${word#--output=}" ;; esac; done'
    once = f"echo x >> {tries}; [ $(wc -l < {tries}) -gt 1 ] || {{ echo End of file; exit 1; }}"
    path = put_nsys(run, "2024.2.3.38", f"{once}; {report}")
    assert profiler.choose(run, profiled_case()) == str(path)
    assert tries.read_text() == "x\n" * 2
    assert read_json(run.profiler_json)["note"] is None


def test_a_driver_is_told_from_what_nvidia_smi_prints(run: RunDir) -> None:
    program = run.path.parents[3] / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '580.159.04\\n580.159.04\\n'\n")
    program.chmod(0o755)
    assert profiler.driver_version() == "580.159.04"


@pytest.fixture
def judged(run: RunDir) -> Iterator[tuple[RunDir, Case]]:
    """A run whose training completed under nsys."""
    recipe = Recipe(world_sizes=(1,), iterations=4, warmup_iterations=1, samples=False)
    run.path.rmdir()
    write_run(run, recipe, 1, 0, np.random.default_rng(0), 1_770_000_000.0, kind="profile")
    run.result_json.unlink()
    run.profile.mkdir()
    write_json(run.profiler_json, {"profiler": "nsys", "nsys": "/bin/false", "cuda": True, "problems": []})
    yield run, case_of(recipe, 1, 0, "profile")


def test_nsys_was_killed_and_the_training_is_kept(judged: tuple[RunDir, Case]) -> None:
    run, case = judged
    assert profiler.export(run) == []
    result = sentinel.judge(run, case)
    assert (result.status, result.cause, result.ranks_completed) == ("failed", "no_trace", (0,))
    assert result.message == (
        "the training completed, but there is no trace of it: "
        "nsys left no report: it was killed, or its capture range never opened"
    )


def test_a_report_that_cannot_be_exported(judged: tuple[RunDir, Case]) -> None:
    run, case = judged
    (run.profile / "nsys-0.nsys-rep").write_bytes(b"damaged")
    assert profiler.export(run) == []
    message = sentinel.judge(run, case).message
    assert message is not None and "profile/nsys-0.nsys-rep: nsys could not export it" in message


def test_a_trace_makes_the_run_complete(judged: tuple[RunDir, Case]) -> None:
    run, case = judged
    (run.profile / "nsys-0.sqlite").touch()
    assert sentinel.judge(run, case).status == "completed"


def test_exports_are_private(judged: tuple[RunDir, Case], tmp_path: Path) -> None:
    run, _ = judged
    program = put_nsys(
        run, "2024.2.3.38", 'for word; do case $word in --output=*) echo x > "${word#--output=}";; esac; done'
    )
    write_json(run.profiler_json, {"profiler": "nsys", "nsys": str(program), "cuda": True, "problems": []})
    (run.profile / "nsys-0.nsys-rep").write_bytes(b"report")
    assert profiler.export(run) == [run.profile / "nsys-0.sqlite"]
    assert stat.S_IMODE((run.profile / "nsys-0.sqlite").stat().st_mode) == 0o600


def test_the_training_outlives_an_nsys_that_is_killed(tmp_path: Path) -> None:
    """nsys is the parent of the ranks; here a shell in its place kills itself while its child goes on."""
    done = tmp_path / "done"
    command = ["bash", "-c", f'(sleep 1; echo trained > "{done}") & kill -KILL $$']
    program = [sys.executable, "-m", "paceline.profiling.profiler", "run", "--", *command]
    found = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 137
    assert done.read_text() == "trained\n"
    assert "nsys was killed by signal 9: the training goes on" in found.stderr


# ------------------------------------------------------------------------------------------------- afterwards, anywhere

TOKEN = "planted-token-77aa01"


@pytest.fixture
def with_capture(judged: tuple[RunDir, Case]) -> RunDir:
    run, _ = judged
    path = run.profile / "nsys-0.sqlite"
    synthetic(path, kernels=4_000, ranges=800, processes=2)
    return run


def test_the_capture_is_scrubbed_compressed_and_reported(with_capture: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "profile" / "2-gpus"
    first = profile_report.make(with_capture, folder, "2 GPUs, profiled", 2)
    assert not list(with_capture.profile.glob("*.sqlite"))  # the export with the environment is gone
    assert first.captures == (folder / "node-0.sqlite.xz",)
    assert {row["rank"] for row in first.trace.ranges} == {0, 1}
    assert not any("partial" in warning for warning in first.trace.warnings)
    assert first.page == folder / "trace.html" and "2 GPUs, profiled" in first.page.read_text()
    again = profile_report.make(with_capture, folder, "2 GPUs, profiled", 4)
    assert again.trace.ranges == first.trace.ranges
    assert again.trace.warnings[0] == "partial: 2 of 4 ranks are in the trace"
    page = profile_report.side_by_side(first, again, tmp_path / "profile" / "1-vs-2")
    assert (page.parent / "comparison.csv").exists()
    profile_report.write_index(tmp_path / "profile", [first])
    index = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert index["cases"][0]["captures"] == ["2-gpus/node-0.sqlite.xz"]
    assert index["cases"][0]["diagnosis"] == first.trace.diagnosis


def test_two_nodes_are_put_together(judged: tuple[RunDir, Case], tmp_path: Path) -> None:
    run, _ = judged
    for node in range(2):
        synthetic(run.profile / f"nsys-{node}.sqlite", kernels=2_000, ranges=400, processes=2)
    made = profile_report.make(run, tmp_path / "p", "4 GPUs on 2 nodes, profiled", 4)
    # Both captures name the same process ids: no rows are lost, none are mixed up.
    assert len({row["process"] for row in made.trace.ranges}) == 4
    assert made.trace.details["num_operations"] == sum(row["operations"] for row in made.trace.processes)


def test_nothing_to_report_is_one_line(judged: tuple[RunDir, Case], tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no capture is left; remove .* to profile again") as caught:
        profile_report.make(judged[0], tmp_path / "p", "1 GPU, profiled", 1)
    assert "\n" not in str(caught.value)


def test_a_damaged_capture_is_one_line(judged: tuple[RunDir, Case], tmp_path: Path) -> None:
    (judged[0].profile / "nsys-0.sqlite").write_bytes(b"SQLite format 3\0" + os.urandom(4000))
    with pytest.raises(TraceError) as caught:
        profile_report.make(judged[0], tmp_path / "p", "1 GPU, profiled", 1)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "p").glob("*.sqlite*"))
