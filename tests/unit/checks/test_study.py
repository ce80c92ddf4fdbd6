"""The checks on Paceline's own study folders: simulated ones whose defects are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paceline.analysis.checks import check_path, check_table
from paceline.analysis.ingest import read_any
from paceline.bench.cli import main
from paceline.bench.rundir import StudyDir


@pytest.fixture
def write(synthetic: ModuleType, tmp_path: Path) -> Any:
    def run(**recipe: Any) -> Any:
        made = synthetic.Recipe(world_sizes=(1, 2, 4), iterations=80, **recipe)
        synthetic.write_study(tmp_path / "study", made)
        return made, tmp_path / "study"

    return run


def replace_run(synthetic: ModuleType, folder: Any, recipe: Any, world_size: Any, repeat: Any, **how: Any) -> Any:
    """Write the run of a case again, another way."""
    import shutil

    import numpy as np

    case = synthetic.case_of(recipe, world_size, repeat)
    run = StudyDir(folder).run(case.case_id, 1)
    shutil.rmtree(run.path)
    synthetic.write_run(run, recipe, world_size, repeat, np.random.default_rng(7), **how)
    return f"{case.case_id}/attempt-1"


def findings(folder: Any) -> Any:
    out: dict[str, Any] = {}
    for finding in check_path(folder):
        out.setdefault(finding.id, []).append(finding)
    return out


def edit_headers(folder: Any, world_size: Any, change: Any) -> Any:
    """Change the headers of all ranks of all runs of one world size."""
    for run in StudyDir(folder).all_runs():
        for path in run.rank_files():
            first, _, rest = path.read_text().partition("\n")
            header = json.loads(first)
            if header["world_size"] == world_size:
                change(header)
                path.write_text(json.dumps(header) + "\n" + rest)


@pytest.mark.parametrize("kind", ["strong", "weak"])
def test_a_sound_study_has_no_findings(write: Any, kind: str) -> None:
    _, folder = write(kind=kind, iteration_noise=0.005, job_noise=0.005)
    assert findings(folder) == {}
    table = read_any(folder)
    assert table.kind == "study" and table.scope == "all" and len(table) == 9 and table.declared_mode == kind


def test_cores_that_others_used(write: Any, synthetic: ModuleType) -> None:
    """Ranks use a core each of 32, the other cores are 4 % busy: 3.9 %; with 30 % on each it would be 29 %."""
    recipe, folder = write()
    (path,) = StudyDir(folder).run(synthetic.case_of(recipe, 1, 0).case_id, 1).samples_files()
    text = path.read_text()
    path.write_text(re.sub(r"\b4\.0\b", "30.0", text))
    (found,) = findings(folder)["F-BUSY"]
    assert found.rows == (f"{path.parent.parent.name}/attempt-1",) and "kept 29 % of" in found.message

    header, *lines = text.splitlines()
    few = json.loads(header) | {"job_cores": [0, 1, 2, 3]}  # what runs on cores of other jobs is not this job's matter
    path.write_text("\n".join([json.dumps(few), *lines]) + "\n")
    assert "F-BUSY" not in findings(folder)
    alone = [line.replace('"ranks": [', '"ranks": [], "was": [') for line in lines]  # no rank seen: nothing to say
    path.write_text(re.sub(r"\b4\.0\b", "30.0", "\n".join([header, *alone]) + "\n"))
    assert "F-BUSY" not in findings(folder)


def test_runs_that_must_not_count(write: Any, synthetic: ModuleType) -> None:
    recipe, folder = write()
    throttled = replace_run(synthetic, folder, recipe, 1, 0, throttle=True)
    shared = replace_run(synthetic, folder, recipe, 2, 0, foreign=True)
    invalid = replace_run(
        synthetic, folder, recipe, 4, 0, extra={"invalid_physics": "Contact buffer overflow detected"}
    )
    found = findings(folder)
    assert found["F-THROTTLE"][0].rows == (throttled,) and "sw_thermal_slowdown" in found["F-THROTTLE"][0].message
    assert found["F-FOREIGN"][0].rows == (shared,) and found["F-FOREIGN"][0].severity == "error"
    assert found["F-INVALID"][0].rows == (invalid,) and "Contact buffer overflow" in found["F-INVALID"][0].message
    assert "F-CLOCK" in found or "SM clock" not in str(found)


def test_failed_runs_are_named(write: Any, synthetic: ModuleType) -> None:
    recipe, folder = write()
    case = synthetic.case_of(recipe, 4, 2)
    import shutil

    shutil.rmtree(StudyDir(folder).runs / case.case_id)
    synthetic.write_failure(StudyDir(folder).run(case.case_id, 1), case, "oom_device", "CUDA out of memory")
    found = findings(folder)
    assert found["F-FAILED"][0].message == "run failed (oom_device) at N=4: it has no number"
    assert found["F-FAILED"][0].rows == (f"{case.case_id}/attempt-1",)


def test_one_repeat(write: Any) -> None:
    _, folder = write(repeats=1)
    assert "F-N1" in findings(folder)


def test_mixed_hardware_versions_and_problem(write: Any) -> None:
    _, folder = write()
    edit_headers(folder, 4, lambda header: header["device"].update(name="NVIDIA H200"))
    assert "NVIDIA H100 80GB HBM3 / NVIDIA H200" in findings(folder)["F-HW"][0].message
    edit_headers(
        folder, 4, lambda header: header["device"].update(name="NVIDIA H100 80GB HBM3", driver_version="570.1")
    )
    assert "driver differs" in findings(folder)["F-HW"][0].message
    edit_headers(folder, 4, lambda header: header["device"].update(driver_version="580.65.06"))
    edit_headers(folder, 2, lambda header: header["versions"].update(torch="2.10.0"))
    assert "torch differs" in findings(folder)["F-VERSION"][0].message
    edit_headers(folder, 2, lambda header: header["versions"].update(torch="2.11.0"))
    assert not {"F-HW", "F-VERSION"} & set(findings(folder))
    edit_headers(folder, 4, lambda header: header["problem"].update(num_epochs=3, optimizer_steps_per_iteration=12))
    assert findings(folder)["F-BATCH"][0].severity == "error"


def test_the_trainer_is_believed_before_the_plan(write: Any) -> None:
    """A strong study whose trainer kept its environments per rank is weak scaling, whatever was asked for."""
    _, folder = write()
    for size in (2, 4):
        edit_headers(folder, size, lambda h, n=size: h["problem"].update(global_batch=h["problem"]["global_batch"] * n))
    found = findings(folder)["F-MODE"][0]
    assert found.severity == "error" and "declared strong (the study), but frames per iteration go" in found.message


def test_a_profiled_run_gives_no_headline_number(write: Any) -> None:
    _, folder = write()
    edit_headers(folder, 4, lambda header: header.update(profiler="nsys"))
    (found,) = findings(folder)["F-PROFILED"]
    assert found.severity == "error" and len(found.rows) == 3 and "measured under nsys" in found.message


def test_warm_up_inside_the_window(write: Any) -> None:
    _, folder = write(true_warmup=30, warmup_iterations=2)
    found = findings(folder)["F-WARMUP"]
    assert len(found) == 1 and len(found[0].rows) >= 6 and "the run marked 2" in found[0].message
    assert found[0].message.startswith(("warm-up inside the window", "steady state not reached"))


def test_command_on_a_folder(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = write(iteration_noise=0.005, job_noise=0.005)
    assert main(["check", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    edit_headers(folder, 4, lambda header: header["device"].update(name="NVIDIA H200"))
    assert main(["check", str(folder)]) == 1
    assert "F-HW" in capsys.readouterr().out


def test_the_scaling_table_of_a_report_passes_its_own_checks(write: Callable[..., Any]) -> None:
    from paceline.analysis.report import write_report

    _, folder = write(iteration_noise=0.005, job_noise=0.005)
    write_report(folder)
    assert check_path(folder / "report" / "scaling.csv") == []


def test_folder_that_is_damaged(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = write()
    StudyDir(folder).study_yaml.write_text("kind: [")
    assert main(["check", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_rules_take_any_table(write: Any) -> None:
    _, folder = write()
    table = read_any(folder)
    assert check_table(table) == check_path(folder)
