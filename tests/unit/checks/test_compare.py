"""Comparison of two studies: verdicts, intervals that cover, refusals, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from paceline.analysis.changes import change_at, change_over_all
from paceline.analysis.compare import Comparison, as_text, compare, compare_paths
from paceline.analysis.plain_csv import parse_csv
from paceline.bench.cli import main
from paceline.bench.errors import RecordError

HEAD = "world_size,num_envs,repeat,total_fps,{}\n"


def table(rates: Any, extra: Any = "task", value: Any = "Isaac-Ant", name: str = "strong.csv") -> Any:
    rows = "".join(f"{n},4096,{r},{x},{value}\n" for n, xs in rates.items() for r, x in enumerate(xs))
    return parse_csv(HEAD.format(extra) + rows, name)


@pytest.fixture
def studies(synthetic: ModuleType, tmp_path: Path) -> Any:
    def write(name: str, **recipe: Any) -> Any:
        synthetic.write_study(tmp_path / name, synthetic.Recipe(world_sizes=(1, 2, 4), samples=False, **recipe))
        return tmp_path / name

    return write


def test_pairs_cancel_what_they_share() -> None:
    """Repeats that drift together by 20 % still show a difference of 3 %."""
    drift = np.array([1.0, 1.1, 1.2])
    a: Any
    b: Any
    a, b = dict(enumerate(1000 * drift)), dict(enumerate(1030 * drift * np.array([1.0, 1.001, 0.999])))
    paired: Any = change_at(1, a, b)
    assert paired.pairs == 3 and paired.verdict == "better"
    assert paired.change == pytest.approx(0.03, abs=1e-3) and paired.low < 0.03 < paired.high
    unpaired: Any = change_at(1, {-1.0 - k: v for k, v in a.items()}, {-1.0 - k: v for k, v in b.items()})
    assert unpaired.pairs == 0 and unpaired.verdict == "inconclusive"


def test_one_run_is_inconclusive() -> None:
    one: Any = change_at(8, {0.0: 1000.0}, {0.0: 2000.0})
    assert one.verdict == "inconclusive" and one.low is None and one.change == pytest.approx(1.0)
    both: Any = change_over_all([one, one], {8.0: {0.0: 1000.0}}, {8.0: {0.0: 2000.0}}, [8.0])
    assert both.verdict == "inconclusive" and both.low is None and both.change == pytest.approx(1.0)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_cover_and_no_change_is_called_inconclusive(paired: bool) -> None:
    rng = np.random.default_rng(4)
    hits = calls = 0
    for _ in range(250):
        key = (lambda k: float(k)) if paired else (lambda k: -1.0 - k)
        left, right = {}, {}
        for size in (1.0, 2.0, 4.0):
            shared = np.exp(rng.normal(0, 0.02, 4))
            left[size] = {key(k): 1e6 * shared[k] * np.exp(rng.normal(0, 0.01)) for k in range(4)}
            right[size] = {key(k): 1e6 * shared[k] * np.exp(rng.normal(0, 0.01)) for k in range(4)}
        points = [change_at(size, left[size], right[size]) for size in left]
        overall: Any = change_over_all(points, left, right, sorted(left))
        hits += overall.low <= 0 <= overall.high
        calls += overall.verdict == "inconclusive"
    assert hits == calls and hits / 250 >= 0.93


def test_many_points_raise_few_false_alarms() -> None:
    """Four world sizes, three repeats, nothing changed: alone, one in ten is called worse somewhere."""
    rng = np.random.default_rng(11)
    alone = failed = 0
    for _ in range(300):
        a: Any
        b: Any
        a, b = ({n: dict(enumerate(np.exp(rng.normal(14, 0.03, 3)))) for n in (1, 2, 4, 8)} for _ in "ab")
        points = tuple(change_at(n, a[n], b[n]) for n in a)
        overall = change_over_all(points, a, b, sorted(a))
        found = Comparison(a="a", b="b", differs=(), points=points, overall=overall)
        alone += any(point.verdict == "worse" for point in points)
        failed += found.fails(0.0)
    assert 0.06 <= alone / 300 <= 0.16
    assert failed / 300 <= 0.06


def test_a_point_beyond_chance_fails_and_one_that_may_be_chance_is_named() -> None:
    steady: Any = {n: (1e6, 1.01e6, 1.02e6) for n in (1, 2, 4, 8)}
    a = table(steady)
    clear = compare(a, table(steady | {8: (0.900e6, 0.908e6, 0.919e6)}))
    assert [point.verdict for point in clear.points] == ["inconclusive"] * 3 + ["worse"]
    assert clear.chance() == (True, True, True, False) and clear.fails(0.02) and not clear.fails(0.2)
    noisy: Any = {n: (1.02e6, 1.01e6, 1e6) for n in (1, 2, 4)}
    weak = compare(a, table(noisy | {8: (0.96e6, 0.98e6, 0.97e6)}))
    assert weak.points[-1].verdict == "worse" and 0.0125 < (weak.points[-1].p_value or 0) < 0.05
    assert weak.chance()[-1] and weak.overall.verdict == "inconclusive" and not weak.fails(0.0)
    assert "N=8: may be chance, as one of 4 world sizes judged (Holm)" in as_text(weak)
    alone = compare(table({8: steady[8]}), table({8: (0.96e6, 0.98e6, 0.97e6)}))
    assert alone.chance() == (False,) and alone.fails(0.02)


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_agree_with_intervals(paired: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        a, b = ({(k if paired else -1 - k) * 1.0: float(np.exp(rng.normal(0, 0.01))) for k in range(4)} for _ in "ab")
        found = change_at(2, a, b)
        assert found.p_value is not None
        assert (found.p_value < 0.05) == (found.verdict != "inconclusive")


def test_real_change_is_found(studies: Callable[..., Path]) -> None:
    before = studies("before", seed=1)
    slower: Any = compare_paths(before, studies("slower", seed=2, base_time_s=0.84))
    assert slower.overall.verdict == "worse" and slower.overall.low < 0.8 / 0.84 - 1 < slower.overall.high
    assert slower.fails(0.02) and not slower.fails(0.10)
    assert [point.world_size for point in slower.points] == [1, 2, 4] and all(p.pairs == 3 for p in slower.points)
    same: Any = compare_paths(before, studies("same", seed=3))
    assert same.overall.verdict == "inconclusive" and not same.fails(0.0)
    faster: Any = compare_paths(before, studies("faster", seed=4, base_time_s=0.72))
    assert faster.overall.verdict == "better" and not faster.fails(0.0)


def test_command(studies: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = studies("a", seed=1), studies("b", seed=2, base_time_s=0.84)
    assert main(["compare", str(a), str(b)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("B is worse")
    assert main(["compare", str(a), str(b), "--fail-if-worse", "2%", "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "worse" and [p["world_size"] for p in told["points"]] == [1, 2, 4]
    assert told["overall"]["change_low"] < told["overall"]["change"] < told["overall"]["change_high"] < 0
    assert main(["compare", str(b), str(a), "--fail-if-worse", "2%"]) == 0
    assert main(["compare", str(a), str(b), "--fail-if-worse", "0.10"]) == 0
    capsys.readouterr()
    for limit in ("two", "-2%", "200%"):
        with pytest.raises(SystemExit) as error:
            main(["compare", str(a), str(b), f"--fail-if-worse={limit}"])
        assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_what_is_not_comparable_is_refused(studies: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    a = studies("a", seed=1)
    assert main(["compare", str(a), str(studies("envs", seed=2, num_envs=8192))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "num_envs 16,384 and 8192 at N=1" in error and "mini-batch per rank" in error
    assert main(["compare", str(a), str(studies("weak", seed=2, kind="weak"))]) == 2
    assert "scaling mode strong and weak" in capsys.readouterr().err
    other_gpu = studies("gpu", seed=2, gpu_name="NVIDIA H200")
    assert main(["compare", str(a), str(other_gpu)]) == 2
    assert "GPU model NVIDIA H100 80GB HBM3 and NVIDIA H200" in capsys.readouterr().err
    assert main(["compare", str(a), str(other_gpu), "--allow", "gpu"]) == 0
    assert "also differs: GPU model" in capsys.readouterr().out
    assert main(["compare", str(a), str(a), "--allow", "colour"]) == 2
    assert main(["compare", str(a), str(a / "none")]) == 2


def test_what_is_under_test_is_reported() -> None:
    a = table({1: (1000, 1010)}, "driver", "580.1")
    b = table({1: (1000, 1010)}, "driver", "590.2")
    assert compare(a, b).differs == ("driver 580.1 and 590.2 at N=1",)
    assert compare(a, a).differs == ()


def test_tables_without_world_sizes_in_common() -> None:
    with pytest.raises(RecordError, match=r"no world size in common \(1 and 2\)"):
        compare(table({1: (1000, 1010)}), table({2: (1000, 1010)}))


def test_runs_that_must_not_count_are_left_out() -> None:
    text = "world_size,num_envs,repeat,total_fps,physics_valid\n1,64,0,1001,yes\n1,64,1,1011,yes\n1,64,2,9001,no\n"
    a = parse_csv(text, "a.csv")
    found = compare(a, a)
    assert found.points[0].runs == (2, 2) and found.points[0].a_fps == 1006
    with pytest.raises(RecordError, match="no run with a total rate that counts"):
        compare(a, parse_csv(text.replace("yes", "no"), "b.csv"))
