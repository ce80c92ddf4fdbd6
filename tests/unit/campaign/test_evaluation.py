from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import evaluation as analysis
from paceline.analysis import evaluation_report
from paceline.bench import evaluation
from paceline.bench.checkpointcontents import ANOTHER_NETWORK
from paceline.bench.commands import evaluate
from paceline.bench.errors import LaunchError, RecordError
from paceline.bench.evaluation import Cell, EvaluationDir
from paceline.bench.packing import Packer, Place, Progress

from tests.campaigns import case, write_campaign
from tests.unit.test_checkpoint import noted, rl_games, rsl_rl

# A process that behaves as a cell's file tells it: real processes, real exits, real records.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
cell = json.loads(Path(sys.argv[1]).read_text())
plan = json.loads(os.environ["PLAN"]).get(cell["label"], {})
tries = Path(sys.argv[2] + ".tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
number = len(tries.read_text())
marks = Path(os.environ["MARKS"])
mine = marks / cell["cell_id"]
mine.touch()
(marks / f"most-{len([p for p in marks.iterdir() if not p.name.startswith('most')])}").touch()
out = open(sys.argv[2], "w")
def line(**values):
    out.write(json.dumps(values) + "\\n"); out.flush()
line(type="header", **cell)
time.sleep(0.2)
mine.unlink()
if number <= plan.get("crashes", 0):
    sys.exit(3)
if plan.get("error"):
    line(type="end", status="failed", error=plan["error"], episodes=0); sys.exit(1)
if number <= plan.get("out_of_memory", 0):
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"); sys.exit(1)
for k in range(cell["episodes"]):
    line(episode=k + 1, env=k, reward=plan.get("reward", 1.0) + k % 3, length=100 + k, timed_out=True, success=1.0)
line(type="end", status="completed", error=None, episodes=cell["episodes"], wall_s=0.2, cpu_s=plan.get("cpu_s", 0.2),
     rss_bytes=50_000_000, device_memory_bytes=plan.get("device", 0), play_s=0.1, steps=100)
if plan.get("crash_at_exit"):
    os.abort()
"""


def cell(label: str, seed: int = 1, **changes: Any) -> Cell:
    values: dict[str, Any] = {
        "checkpoint": f"/{label}.pt",
        "label": label,
        "sha256": label,
        "trainer": "rsl_rl",
        "task": "Isaac-Cartpole-Direct",
        "variant": "",
        "seed": seed,
        "episodes": 6,
        "num_envs": 6,
        "device": "cpu",
        "physics": "newton_mjwarp",
        "overrides": (),
    }
    return Cell(**{**values, **changes})


def pack(tmp_path: Path, cells: list[Cell], plan: dict[str, Any], **options: Any) -> tuple[Progress, int]:
    """Return how packing ended and how many processes ran at once at most."""
    folder = EvaluationDir(tmp_path / "evaluation")
    folder.create(cells, {})
    marks = tmp_path / "marks"
    marks.mkdir(exist_ok=True)
    environment = {"PLAN": json.dumps(plan), "MARKS": str(marks)}
    packer = Packer(folder, cells, [sys.executable, "-c", PROGRAM], environment, lambda progress: None, **options)
    progress = packer.run()
    return progress, max(int(path.name.partition("-")[2]) for path in marks.glob("most-*"))


def states(progress: Progress) -> list[str]:
    return [progress.states[c.cell_id] for c in progress.cells]


def test_the_first_runs_alone_then_as_many_as_fit(tmp_path: Path) -> None:
    cells = [cell("a", seed) for seed in range(7)]
    places = [Place("0", 10 << 30)]
    progress, most = pack(tmp_path, cells, {"a": {"device": 2 << 30, "cpu_s": 0.01}}, places=places)
    assert states(progress) == ["completed"] * 7
    # 9 GiB beside the reserve hold three of 2.3 GiB, headroom included; half a core each.
    assert places[0].slots == most == min(3, 2 * len(os.sched_getaffinity(0)))
    assert "one process needs 2.0 GiB of device memory" in progress.notes[0]
    schedule = [json.loads(line) for line in (tmp_path / "evaluation/schedule.jsonl").read_text().splitlines()]
    first = min(schedule, key=lambda line: line["began_unix_s"])
    assert all(line["began_unix_s"] >= first["ended_unix_s"] for line in schedule if line is not first)


def test_one_by_one(tmp_path: Path) -> None:
    progress, most = pack(tmp_path, [cell("a", seed) for seed in range(3)], {}, most=1)
    assert states(progress) == ["completed"] * 3 and most == 1


def test_out_of_memory_takes_a_slot_away_and_the_cell_runs_again(tmp_path: Path) -> None:
    places = [Place("0", None, slots=1)]
    cells = [cell("a"), cell("b", 2), cell("greedy", 3), cell("c", 4)]
    plan = {"a": {"cpu_s": 0.001}, "greedy": {"out_of_memory": 1}}
    packing_folder = tmp_path / "evaluation"
    progress, _ = pack(tmp_path, cells, plan, places=places)
    assert states(progress) == ["completed"] * 4
    if any("out of memory" in note for note in progress.notes):  # it ran beside another
        assert places[0].limited_by == "memory ran out with one more"
    tries = [json.loads(line) for line in (packing_folder / "schedule.jsonl").read_text().splitlines()]
    assert sum(line["cell_id"] == cells[2].cell_id for line in tries) == 2


def test_a_crashed_cell_is_run_again_and_at_last_given_up(tmp_path: Path) -> None:
    plan = {"unlucky": {"crashes": 2}, "hopeless": {"crashes": 99}}
    progress, _ = pack(tmp_path, [cell("good"), cell("unlucky"), cell("hopeless")], plan)
    assert states(progress) == ["completed", "completed", "failed"]
    assert any("failed 3 times" in note for note in progress.notes)


def test_a_checkpoint_of_another_network_is_not_tried_again(tmp_path: Path) -> None:
    error = f"/wide.pt {ANOTHER_NETWORK}: size mismatch for mlp.0.weight"
    progress, _ = pack(tmp_path, [cell("good"), cell("wide")], {"wide": {"error": error}})
    assert states(progress) == ["completed", "failed"] and any(error in note for note in progress.notes)
    assert (tmp_path / "evaluation/cells" / f"{cell('wide').cell_id}.jsonl.tries").read_text() == "x"


def test_the_record_decides_not_the_exit(tmp_path: Path) -> None:
    progress, _ = pack(tmp_path, [cell("a")], {"a": {"crash_at_exit": True}})
    assert states(progress) == ["completed"]


def test_what_is_done_is_not_played_again(tmp_path: Path) -> None:
    cells = [cell("a"), cell("b")]
    pack(tmp_path, cells[:1], {})
    before = (tmp_path / "evaluation/cells" / f"{cells[0].cell_id}.jsonl").stat().st_mtime_ns
    progress, _ = pack(tmp_path, cells, {})
    assert states(progress) == ["completed"] * 2
    assert (tmp_path / "evaluation/cells" / f"{cells[0].cell_id}.jsonl").stat().st_mtime_ns == before


def test_identity_of_a_cell_is_its_content() -> None:
    here = cell("a")
    assert here.cell_id == dataclasses.replace(here, checkpoint="/elsewhere.pt", label="other name").cell_id
    changes: list[dict[str, Any]] = [{"seed": 2}, {"sha256": "b"}, {"episodes": 7}, {"overrides": ("env.x=1",)}]
    assert len({here.cell_id, *(dataclasses.replace(here, **change).cell_id for change in changes)}) == 5


def write_cell(folder: Path, a_cell: Cell, rewards: np.ndarray[Any, Any], status: str = "completed") -> None:
    lines: list[dict[str, Any]] = [{"type": "header", **a_cell.to_json()}]
    for number, reward in enumerate(rewards, start=1):
        success = float(reward > 0)
        lines.append({"episode": number, "env": number, "reward": float(reward), "length": 100, "success": success})
    lines.append({"type": "end", "status": status, "error": None, "episodes": len(rewards), "success_from": "time_out"})
    (folder / "cells" / f"{a_cell.cell_id}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluated(tmp_path: Path, means: dict[str, float], seeds: int = 4) -> tuple[Path, list[analysis.CellResult]]:
    cells = [cell(label, seed, episodes=100) for label in means for seed in range(seeds)]
    EvaluationDir(tmp_path).create(cells, {})
    for number, a_cell in enumerate(cells):
        noise = np.random.default_rng(number).normal(means[a_cell.label], 1.0, 100)
        write_cell(tmp_path, a_cell, noise + 3 * a_cell.seed)  # seeds differ more than checkpoints
    return tmp_path, analysis.load(tmp_path)


def test_the_best_checkpoint_is_found_across_seeds(tmp_path: Path) -> None:
    _, cells = evaluated(tmp_path, {"old": 0.0, "best": 1.0, "close": 0.5})
    found = analysis.ranking(cells)
    assert found is not None and found.order == ("best", "close", "old") and found.ties == ()
    assert all(p < 1e-6 for p in found.p_values.values())


def test_two_that_do_not_differ_are_a_tie(tmp_path: Path) -> None:
    folder, cells = evaluated(tmp_path, {"a": 1.0, "b": 1.02, "worse": -1.0})
    found = analysis.ranking(cells)
    assert found is not None and set(found.order[:2]) == {"a", "b"} and found.ties == (found.order[1],)
    text = evaluation_report.write(folder)
    assert "a tie" in text
    report = json.loads((folder / "report.json").read_text())
    assert report["rankings"][0]["ties_with_first"] == list(found.ties)


def test_tie_test_errs_in_five_of_a_hundred(tmp_path: Path) -> None:
    """Two equal checkpoints are told apart by chance in about 5 % of evaluations."""
    random = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        cells = [
            analysis.CellResult(
                cell={"label": label, "task": "t", "variant": "", "seed": seed},
                status="completed",
                error=None,
                reward=random.normal(0, 1, 40),
                length=np.zeros(40),
                success=np.zeros(40),
                end={},
            )
            for label in "ab"
            for seed in (1, 2)
        ]
        found = analysis.ranking(cells)
        wrong += found is not None and not found.ties
    assert 0.02 < wrong / 400 < 0.09


def test_intervals_cover() -> None:
    random = np.random.default_rng(3)
    hits = [0, 0]
    for _ in range(500):
        success = (random.random(50) < 0.9).astype(float)
        share, average = analysis.proportion(success), analysis.mean(random.normal(5, 2, 20))
        hits[0] += share.low <= 0.9 <= share.high
        hits[1] += average.low <= 5 <= average.high
    assert 0.92 < hits[0] / 500 < 0.99 and 0.92 < hits[1] / 500 < 0.98
    everyone = analysis.proportion(np.ones(100))
    assert everyone.high == 1.0 and 0.95 < everyone.low < 0.97


def test_failed_and_missing_cells_stay_in_the_report(tmp_path: Path) -> None:
    cells = [cell("a"), cell("b"), cell("c")]
    EvaluationDir(tmp_path).create(cells, {})
    write_cell(tmp_path, cells[0], np.ones(6))
    write_cell(tmp_path, cells[1], np.ones(2), status="failed")
    rows = analysis.table(analysis.load(tmp_path))
    assert [row["status"] for row in rows] == ["completed", "failed", "missing"]
    assert rows[2]["reward"] is None
    evaluation_report.write(tmp_path)
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 4
    with pytest.raises(RecordError, match="not an evaluation folder"):
        analysis.load(tmp_path / "cells")


def test_speedup_is_against_the_cell_that_ran_alone(tmp_path: Path) -> None:
    cells = [cell("a", seed) for seed in range(4)]
    EvaluationDir(tmp_path).create(cells, {})
    for a_cell in cells:
        write_cell(tmp_path, a_cell, np.ones(6))
    spans = [(0, 10), (10, 22), (10, 22), (10, 22)]
    lines = [
        {"cell_id": c.cell_id, "status": "completed", "began_unix_s": b, "ended_unix_s": e}
        for c, (b, e) in zip(cells, spans, strict=True)
    ]
    (tmp_path / "schedule.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = analysis.speed(tmp_path, analysis.load(tmp_path))
    assert found is not None and (found.wall_s, found.one_by_one_s, found.most_at_once) == (22, 40, 3)
    assert math.isclose(found.speedup, 40 / 22)


@pytest.mark.parametrize("played", [4, 2])
def test_speedup_measured_one_by_one(tmp_path: Path, played: int) -> None:
    """Real processes: what was played one by one is the measurement; cells that were not count as their mean."""
    cells = [cell("a", seed) for seed in range(4)]
    pack(tmp_path, cells, {"a": {"cpu_s": 0.001}}, places=[Place("0", None)])
    folder = tmp_path / "evaluation"
    alone = EvaluationDir(folder / evaluation.ONE_BY_ONE)
    alone.create(cells, {})
    environment = {"PLAN": "{}", "MARKS": str(tmp_path / "marks")}
    command, places = [sys.executable, "-c", PROGRAM], [Place("0", None), Place("1", None)]
    packer = Packer(alone, cells[:played], command, environment, lambda _: None, most=1, only=1, places=places)
    assert set(packer.run().states.values()) == {"completed"} and len(packer.places) == 1
    found = analysis.speed(folder, analysis.load(folder))
    assert found is not None and found.most_at_once > 1
    assert (found.measured_cells, found.cells, found.measured) == (played, 4, played == 4)
    tries = [json.loads(line) for line in alone.schedule_jsonl.read_text().splitlines()]
    took = sum(line["ended_unix_s"] - line["began_unix_s"] for line in tries)
    assert math.isclose(found.one_by_one_s, took * 4 / played)
    said = "(measured)" if played == 4 else "(measured for 2 of 4 cells)"
    assert said in evaluation_report.write(folder)


def test_a_break_between_two_sessions_is_no_time_of_the_evaluation(tmp_path: Path) -> None:
    cells = [cell("a", seed) for seed in range(3)]
    EvaluationDir(tmp_path).create(cells, {})
    for a_cell in cells:
        write_cell(tmp_path, a_cell, np.ones(6))
    lines = [
        {"cell_id": c.cell_id, "status": "completed", "began_unix_s": b, "ended_unix_s": e}
        for c, (b, e) in zip(cells, [(0, 10), (5, 12), (90000, 90003)], strict=True)
    ]
    (tmp_path / "schedule.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = analysis.speed(tmp_path, analysis.load(tmp_path))
    assert found is not None and found.wall_s == 15


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(list(words))


def matrix(*words: str) -> list[Cell]:
    args = arguments(*words, "--device", "cpu")
    return evaluate.make_cells(args, evaluation.find_policies(args.sources, args.best))


def test_matrix_of_files(tmp_path: Path) -> None:
    files = [str(rsl_rl(tmp_path, 5)), str(rl_games(tmp_path, 7))]
    cells = matrix(*files, "--task", "A", "--task", "B", "--seeds", "1,2", "--variant", "hard: env.x=1 env.y=2")
    assert len(cells) == 8
    assert {c.trainer for c in cells} == {"rsl_rl", "rl_games"} and cells[0].overrides == ("env.x=1", "env.y=2")


def test_a_campaign_brings_task_settings_and_its_best(tmp_path: Path) -> None:
    settings = ("agent.actor.hidden_dims=[32,16]", "env.rewards.alive.weight=2")
    write_campaign(tmp_path, case(overrides=settings))
    for number, reward in ((100, 3.0), (200, 9.0), (300, 1.0)):
        noted(
            rsl_rl(tmp_path / "trainer" if (tmp_path / "trainer").exists() else _made(tmp_path), number),
            number + 1,
            reward,
        )
    cells = matrix(str(tmp_path))
    assert [c.label for c in cells] == ["model_300", "model_200"]
    assert cells[0].task == case().task and cells[0].overrides == settings
    assert matrix(str(tmp_path), "--task", "Other")[0].overrides == settings[:1]


def _made(folder: Path) -> Path:
    (folder / "trainer").mkdir()
    return folder / "trainer"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.pt",), "missing"),
        (("cut.pt",), "truncated"),
        (("empty",), "no whole checkpoint in it"),
        (("model_5.pt",), "comes from no campaign, so say where to play it with --task"),
        (("model_5.pt", "--task", "A", "--seeds", "1,1"), "seeds must differ"),
        (("model_5.pt", "--task", "A", "--seeds", "x"), "expected whole numbers"),
        (("model_5.pt", "--task", "A", "--variant", "hard"), "expected NAME: KEY=VALUE"),
        (("model_5.pt", "--task", "A", "--variant", "hard: physics=x"), "is no setting of env or agent"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = rsl_rl(tmp_path, 5)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LaunchError, match=said):
        matrix(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episodes", "0"), "must be at least 1"),
        (("--num-envs", "0"), "must be at least 1"),
        (("--at-once", "0"), "--at-once 0: must be at least 1"),
        (("--at-once", "1", "--one-by-one"), "with --at-once 1 nothing is packed"),
        (("--set", "physics=x"), "expected env.KEY=VALUE"),
        (("--python", "/no/such/python", "--task", "A"), "no such program"),
    ],
)
def test_bad_options_are_told_before_anything_runs(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    folder = tmp_path / "evaluation"
    with pytest.raises(LaunchError, match=said):
        evaluate.run(arguments(str(rsl_rl(tmp_path, 5)), "--device", "cpu", "--folder", str(folder), *words))
    assert not folder.exists()


def test_campaigns_with_other_rewards_do_not_compare(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        write_campaign(tmp_path / name, case(overrides=(f"env.rewards.alive.weight={number}",)))
        noted(rsl_rl(_made(tmp_path / name), 100 + number), 101 + number)
    with pytest.raises(LaunchError, match="different env settings"):
        matrix(str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LaunchError, match="not an evaluation folder and not empty"):
        EvaluationDir(tmp_path).create([cell("a")], {})
