"""What a table's own numbers say, printed as far as its columns can carry it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.ingest import read_any
from paceline.analysis.reanalysis import reanalyse
from paceline.bench.cli import main

FOREIGN = Path(__file__).parents[2] / "data" / "foreign"


def test_published_weak_scaling(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    (curve,) = reanalyse(read_any(example("weak_scaling_ant_l40")))["curves"]
    assert curve["mode"] == "weak" and curve["metric"] == "total_fps"
    assert curve["between_ranks"] == "n/a (rank-0 timings)"
    expected = {row["num_gpus"]: row for row in golden("cost_attribution") if "ant" in json.dumps(row).lower()}
    assert expected
    for row in curve["rows"]:
        lost = sum(row[f"loss_{part}"] for part in ("env_step", "inference", "update"))
        assert lost == pytest.approx(1.0 - row["efficiency"], abs=1e-9)
        costs = sum(row[f"cost_{part}_us"] for part in ("env_step", "inference", "update"))
        assert costs == pytest.approx(row["cost_us"], rel=1e-12)
    assert curve["rows"][3]["cost_update_us"] == pytest.approx(6.67, abs=0.005)
    assert curve["rows"][3]["loss_update"] == pytest.approx(0.331, abs=0.0005)
    laws = {row["law"]: row for row in curve["laws"]}
    assert laws["Gustafson"]["value"] == pytest.approx(0.215, abs=0.0005)
    assert not laws["USL"]["identifiable"] and laws["USL"]["value"] is None and "N=8 alone" in laws["USL"]["reason"]


def test_a_table_that_contradicts_itself_gets_no_laws(example: Callable[[str], Path]) -> None:
    found = reanalyse(read_any(example("strong_scaling_cartpole_l40")))
    (curve,) = found["curves"]
    assert curve["mode"] is None and curve["laws"] == []
    assert [round(row["efficiency"], 3) for row in curve["rows"]] == [1.0, 0.865, 0.623, 0.459]
    assert all(row["serial_fraction"] is None for row in curve["rows"])
    assert "F-MODE" in {finding["id"] for finding in found["findings"]}


@pytest.mark.parametrize("name", sorted(path.name for path in FOREIGN.iterdir() if "omniperf" not in path.name))
def test_everything_that_can_be_read_can_be_reported(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FOREIGN / name)
    assert main(["report", path, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    for curve in found["curves"]:
        assert curve["between_ranks"] == "n/a (rank-0 timings)"
        assert all(row["speedup"] == 1.0 for row in curve["rows"])
    assert main(["report", path]) == 0
    said = capsys.readouterr().out
    assert ("n/a (rank-0 timings)" in said) == bool(found["curves"])


def test_command(example: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(example("strong_scaling_cartpole_l40"))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "No headline number may be taken from this table" in said and "8.93" in said
    assert main(["report", str(example("strong_scaling_cartpole_l40")), "--reward", "3"]) == 2
    assert "--figures and --reward need a study folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no study (study.yaml), benchmark bundle" in capsys.readouterr().err
