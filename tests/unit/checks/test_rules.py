"""Each rule fires where it must, and stays silent where it must not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.checks import RULES, as_text, check_table
from paceline.analysis.finding import Finding
from paceline.analysis.plain_csv import parse_csv

COLUMNS = "mode,task,num_gpus,num_envs,horizon,num_minibatches,repeat,iterations,warmup_iterations,scope,total_fps"


SOUND = ((1, (1000, 1010, 990)), (2, (1900, 1910, 1890)), (4, (3500, 3520, 3480)), (8, (6000, 6050, 5950)))


def study(rates: Any = SOUND, extra: dict[str, Callable[[int, int], Any]] | None = None) -> str:
    """Return CSV text of an impeccable strong-scaling study; ``extra`` maps a column to its value by (N, repeat)."""
    extra = extra or {}
    lines = [",".join([COLUMNS, *extra])]
    for n, repeats in rates:
        for r, rate in enumerate(repeats):
            more = [str(value(n, r)) for value in extra.values()]
            lines.append(
                ",".join(
                    [
                        "strong",
                        "Isaac-Ant",
                        str(n),
                        "8192",
                        "16",
                        "4",
                        str(r),
                        "100",
                        "20",
                        "all ranks",
                        str(rate + 0.5),
                        *more,
                    ]
                )
            )
    return "\n".join(lines)


def ids(check: Callable[..., dict[str, list[Finding]]], *arguments: Any) -> Any:
    return set(check(*arguments))


def test_an_impeccable_study_has_no_findings(check: Callable[..., dict[str, list[Finding]]]) -> None:
    assert check(study()) == {}
    assert as_text([], "x.csv").startswith("x.csv: nothing found by")


FRAMES = "gpus,num_envs,fps_total,warmup,repeats\n"
WEAK = FRAMES + "1,1024,1001,10,3\n2,2048,1903,10,3\n4,4096,3507,10,3\n"
STRONG = FRAMES + "1,4096,1001,10,3\n2,4096,1903,10,3\n4,4096,3507,10,3\n"


@pytest.mark.parametrize(
    ("text", "name", "fires"),
    [
        (WEAK, "strong_scaling.csv", True),
        (WEAK, "weak_scaling.csv", False),
        (WEAK, "results.csv", False),
        (STRONG, "weak_scaling.csv", True),
        (STRONG, "strong_scaling.csv", False),
        (FRAMES + "1,1024,1001,10,3\n2,1024,1903,10,3\n4,4096,3507,10,3\n", "results.csv", True),
        (
            "gpus,envs_per_gpu,fps,s/epoch,warmup\n1,4096,1001,10.01,5\n2,4096,1903,5.26,5\n4,4096,3507,2.86,5\n",
            "r.csv",
            True,
        ),
    ],
)
def test_mode(check: Callable[..., dict[str, list[Finding]]], text: str, name: str, fires: bool) -> None:
    found = check(text, name)
    assert ("F-MODE" in found) == fires
    if fires:
        assert found["F-MODE"][0].severity == "error"
        assert set(found["F-MODE"][0].rows) == {1, 2, 3}


def test_mode_can_be_declared_by_the_caller_and_by_a_column(check: Callable[..., dict[str, list[Finding]]]) -> None:
    assert [f.id for f in check_table(parse_csv(WEAK, "r.csv", "strong")) if f.severity == "error"] == ["F-MODE"]
    with_column = "\n".join(
        line + "," + ("kind" if i == 0 else "strong") for i, line in enumerate(WEAK.strip().split("\n"))
    )
    assert "F-MODE" in check(with_column, "weak.csv")


def test_scope(check: Callable[..., dict[str, list[Finding]]]) -> None:
    wrong = (
        "world_size,num_envs,num_envs_per_rank,total_fps,warmup,repeats\n1,4096,4096,1001,9,3\n4,4096,4096,3001,9,3\n"
    )
    found = check(wrong)["F-SCOPE"][0]
    assert found.severity == "error" and found.rows == (2,) and "16,384" in found.message
    assert "F-SCOPE" not in check(wrong.replace("4,4096,4096", "4,16384,4096"))


def test_scope_by_time(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "world_size,num_envs,fps,iteration_time_s\n1,4096,1000.5,{a}\n2,4096,1900.5,{b}\n4,4096,3500.5,{c}\n"
    weak = text.format(a=131.07, b=138.0, c=149.8)
    assert "counts the environments of one rank" in check(weak)["F-SCOPE"][0].message
    strong = text.format(a=131.07, b=69.0, c=37.45)
    assert "F-SCOPE" not in check(strong)


def test_scope_of_rates(check: Callable[..., dict[str, list[Finding]]]) -> None:
    flat = FRAMES + "1,1024,1001,10,3\n2,2048,1003,10,3\n4,4096,1007,10,3\n"
    assert "rate of one rank" in check(flat, "weak.csv")["F-SCOPE"][0].message
    assert "F-SCOPE" not in check(WEAK, "weak.csv")


def test_batch(check: Callable[..., dict[str, list[Finding]]]) -> None:
    changed = study(extra={"num_epochs": lambda n, r: 5 if n < 8 else 4})
    assert check(changed)["F-BATCH"][0].severity == "error"
    assert "5 / 5 / 5 / 4" in check(changed)["F-BATCH"][0].message
    assert "F-BATCH" not in check(study(extra={"num_epochs": lambda n, r: 5}))
    fewer_steps = study(extra={"minibatch_size": lambda n, r: 16384})
    assert "mini-batches per epoch go 8 / 4 / 2 / 1" in check(fewer_steps)["F-BATCH"][0].message
    assert "F-BATCH" not in check(study(extra={"minibatch_size": lambda n, r: 16384 // n}))


def test_configuration(check: Callable[..., dict[str, list[Finding]]]) -> None:
    head = "task,rl_library,world_size,num_envs,horizon,minibatch_size,total_fps,warmup,repeats\n"
    broken = check(head + "Isaac-Ant-v0,rl_games,1,1024,16,32768,1001,5,3\n")
    assert [f.severity for f in broken["F-CONFIG"]] == ["error"] and "does not divide" in broken["F-CONFIG"][0].message
    assert "F-CONFIG" not in check(head + "Isaac-Ant-v0,rl_games,1,4096,16,32768,1001,5,3\n")
    other = check(head + "Isaac-Ant-v0,rl_games,1,4096,32,32768,1001,5,3\n")
    assert "horizon 32 stated, Isaac-Ant-v0 ships 16" in other["F-CONFIG"][0].message
    strong = "".join(f"Isaac-Ant-v0,rl_games,{n},4096,16,{32768 // n},{1001 * n},5,3\n" for n in (1, 2, 4))
    assert "F-CONFIG" not in check(head + strong)  # divided by N as it should be
    kept = "".join(f"Isaac-Ant-v0,rl_games,{n},4096,16,{16384 // n},{1001 * n},5,3\n" for n in (1, 2, 4))
    told = [finding.message for finding in check(head + kept)["F-CONFIG"]]
    assert told[0].startswith("mini-batch 16,384 stated, Isaac-Ant-v0 ships 32,768")
    assert told[1].startswith("mini-batch of all ranks 16,384 stated")
    weak = "".join(f"Isaac-Ant-v0,rl_games,{n},{4096 * n},16,16384,{1001 * n},5,3\n" for n in (1, 2, 4))
    assert [len(finding.rows) for finding in check(head + weak)["F-CONFIG"]] == [3]
    half = "world_size,num_envs,horizon,total_fps,warmup,repeats\n1,4096,16,1001,5,3\n"
    assert "mini-batch size is not" in check(half)["F-CONFIG"][0].message
    nothing = "gpus,fps\n1,1001\n2,1907\n4,3511\n"
    assert "cannot be told apart" in check(nothing)["F-CONFIG"][0].message


def test_monotone(check: Callable[..., dict[str, list[Finding]]]) -> None:
    one_run = (
        "gpus,envs_per_gpu,step,step+inference,total\n1,64,1001,901,801\n2,64,1602,1402,1202\n4,64,3803,3003,2003\n"
    )
    found = check(one_run)["F-MONO"][0]
    assert found.severity == "warn" and "the 2-GPU point" in found.message and found.rows == (2, 3)
    falling = "gpus,envs_per_gpu,total,repeats\n1,64,801,1\n2,64,1502,1\n4,64,2803,1\n"
    assert "F-MONO" not in check(falling)
    noisy = study(((1, (1000, 1010, 990)), (2, (1500, 1900, 1700)), (4, (3300, 3900, 3500)), (8, (6000, 6050, 5950))))
    assert "F-MONO" not in check(noisy), "a rise inside the interval says nothing"
    clear = study(((1, (1000, 1010, 990)), (2, (1600, 1601, 1599)), (4, (3600, 3601, 3599)), (8, (6000, 6050, 5950))))
    assert "F-MONO" in check(clear)


def test_superlinear(check: Callable[..., dict[str, list[Finding]]]) -> None:
    one_run = "gpus,envs_per_gpu,fps_step,total_fps\n1,64,1001,801\n2,64,2302,1502\n4,64,4003,2803\n"
    found = check(one_run)["F-SUPER"][0]
    assert "15 % superlinear at N=2" in found.message and "no mechanism" in found.message and found.rows == (1, 2)
    assert "F-SUPER" not in check(one_run.replace("2302", "2042")), "4 % is within what one run scatters"
    inside = study(((1, (1000, 1200, 800)), (2, (2100, 2200, 2300)), (4, (3500, 3520, 3480)), (8, (6000, 6050, 5950))))
    assert "F-SUPER" not in check(inside)
    beyond = study(((1, (1000, 1001, 999)), (2, (2200, 2201, 2199)), (4, (3900, 3901, 3899)), (8, (6000, 6050, 5950))))
    assert "10 % superlinear at N=2" in check(beyond)["F-SUPER"][0].message


def test_saturation(check: Callable[..., dict[str, list[Finding]]]) -> None:
    head = "gpu_model,num_envs,total_fps,repeats,warmup\n"
    jump = head + "A,1024,9001,3,5\nA,8192,36447,3,5\nA,16384,37865,3,5\nA,32768,69090,3,5\n"
    found = check(jump)["F-SAT"][0]
    assert found.rows == (4,) and "elasticity 0.868 at 32,768 environments after 0.055" in found.message
    assert "F-SAT" not in check(jump.replace("69090", "38090"))


def test_identifiable(check: Callable[..., dict[str, list[Finding]]]) -> None:
    peak = "gpus,envs_per_gpu,total_fps\n1,1024,89792\n2,1024,183778\n4,1024,344864\n8,1024,485944\n"
    assert "3 parameters on 4 points" in check(peak)["F-IDENT"][0].message
    amdahl = "gpus,envs_per_gpu,total_fps\n1,1024,1000\n2,1024,1818\n4,1024,3077\n8,1024,4706\n"
    assert "F-IDENT" not in check(amdahl)


def test_derived(check: Callable[..., dict[str, list[Finding]]]) -> None:
    head = "gpus,total_fps,s/epoch\n"
    derived = head + "1,1001,10.47\n2,1903,5.51\n4,3507,2.990\n"
    assert "F-DERIVED" in check(derived)
    measured = head + "1,1001,10.47\n2,1903,5.71\n4,3507,2.990\n"
    assert "F-DERIVED" not in check(measured)
    stated = "gpus,num_envs,horizon,total_fps,s/epoch\n1,655,16,1001,10.47\n2,655,16,1903,5.51\n4,655,16,3507,2.990\n"
    assert "F-DERIVED" not in check(stated), "with frames per iteration stated, the two columns hide nothing"
    milliseconds = "gpus,total_fps,iteration_time_ms\n1,1001,10470\n2,1903,5510\n4,3507,2990\n"
    assert "F-DERIVED" in check(milliseconds)


def test_order(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,fps step,step+inference,total\n1,1001,901,801\n2,1801,1901,1501\n"
    found = check(text)["F-ORDER"][0]
    assert found.severity == "error" and found.rows == (2,)
    assert found.message.startswith("rates out of order in row 2: step 1801 is below step+inference 1901")
    assert "F-ORDER" not in check(text.replace("1801", "1951"))


def test_stated_ratios(check: Callable[..., dict[str, list[Finding]]]) -> None:
    head = "gpus,num_envs,step,total,efficiency,speedup\n"
    text = head + "1,64,1201,1001,{0},1.0\n2,64,2307,1803,{1},1.8\n4,64,4403,3203,{2},3.2\n"
    assert "F-RATIO" not in check(text.format(1, 0.9, 0.8))
    assert "F-RATIO" not in check(text.format(100, 90, 80))
    assert "F-RATIO" not in check(text.format(1, 0.96, 0.92)), "these are the stepping's"
    found = check(text.format(1, 0.9, 0.95))["F-RATIO"][0]
    assert found.severity == "error" and found.rows == (3,) and "efficiency 0.95 stated at N=4" in found.message


def test_a_grid_of_world_sizes_and_environments_is_several_curves(
    check: Callable[..., dict[str, list[Finding]]],
) -> None:
    head = "gpus,envs_per_gpu,total_fps,warmup,repeats\n"
    grid = head + "".join(f"{n},{e},{int(n * e * 10 * (1 - 0.02 * n))}.5,5,3\n" for n in (1, 2, 4) for e in (512, 1024))
    assert check(grid, "weak.csv") == {}
    assert [f.message.split(":")[0] for f in check(grid, "strong.csv")["F-MODE"]] == [
        "512 environments per rank",
        "1024 environments per rank",
    ]
    head = "gpus,num_envs,total_fps,warmup,repeats\n"
    grid = head + "".join(
        f"{n},{e},{int(n * e * 10 * (1 - 0.02 * n))}.5,5,3\n" for n in (1, 2, 4) for e in (1024, 2048)
    )
    assert check(grid, "strong.csv") == {}


def test_digits(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,fps step,total\n1,590322,243988\n2,1146000,422000\n4,1672123,608917\n"
    assert check(text)["F-DIGITS"][0].rows == (2,)
    all_rounded = "gpus,fps step,total\n1,590000,244000\n2,1146000,422000\n4,1672000,609000\n"
    assert "F-DIGITS" not in check(all_rounded)
    by_chance = "gpus,total\n1,243900\n2,422123\n4,608917\n"
    assert "F-DIGITS" not in check(by_chance)


def test_single_run(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,total_fps,{0}\n1,64,801,{1}\n2,64,1502,{1}\n"
    assert "no interval" in check(text.format("repeats", 1))["F-N1"][0].message
    assert "F-N1" not in check(text.format("repeats", 3))
    one_lost = study(((1, (1000, 1010, 990)), (2, (1900,)), (4, (3500, 3520, 3480))))
    assert "F-N1" in check(one_lost)
    assert "F-N1" not in check(study())


def test_rank0(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "rl_library,gpus,num_envs,total_fps,repeats\n{0},1,64,801,3\n{0},{1},64,1502,3\n"
    assert check(text.format("rl_games", 2))["F-RANK0"][0].rows == (2,)
    assert "F-RANK0" not in check(text.format("rl_games", 1))
    assert "F-RANK0" not in check(text.format("my own", 2))
    stated = "rl_library,gpus,total_fps,scope\nrsl_rl,1,801,all ranks\nrsl_rl,2,1502,all ranks\n"
    assert "F-RANK0" not in check(stated)


def test_invalid(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "num_envs,fps,physics_valid,remark\n1024,9001,yes,\n2048,12001,{0},{1}\n"
    assert check(text.format("no", ""))["F-INVALID"][0].rows == (2,)
    overflow = check(text.format("", "Patch buffer overflow detected"))["F-INVALID"][0]
    assert overflow.severity == "error" and "12,001 at 2048 environments is not usable" in overflow.message
    assert "F-INVALID" not in check(text.format("yes", "quiet"))


def test_throttled(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,throttled_pct,throttle_reason\n1,64,9001,0,\n2,64,16001,{0},sw_power_cap\n"
    found = check(text.format(31))["F-THROTTLE"][0]
    assert found.message == "31 % of samples throttled (sw_power_cap) at N=2" and found.rows == (2,)
    assert "normal state under load" in found.advice and found.severity == "warn"
    assert "F-THROTTLE" not in check(text.format(2))
    words = "gpus,num_envs,fps,throttled\n1,64,9001,no\n2,64,16001,{0}\n"
    assert check(words.format("sw_thermal_slowdown"))["F-THROTTLE"][0].rows == (2,)
    assert "Check cooling" in check(words.format("sw_thermal_slowdown"))["F-THROTTLE"][0].advice
    assert "F-THROTTLE" not in check(words.format("no"))


def test_foreign(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,foreign_processes\n1,64,9001,0\n2,64,16001,{0}\n"
    assert check(text.format(1))["F-FOREIGN"][0].severity == "error"
    assert "F-FOREIGN" not in check(text.format(0))


def test_busy_cores(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,other_cpu_pct\n1,64,9001,1.5\n2,64,16001,{0}\n"
    (found,) = check(text.format(34))["F-BUSY"]
    assert found.severity == "warn" and found.rows == (2,)
    assert found.message.startswith("other programs kept 34 % of the job's processor cores busy at N=2")
    (found,) = check(text.format(34).replace(",1.5", ",17"))["F-BUSY"]
    assert found.rows == (1, 2) and "kept 17 to 34 % of the job's processor cores busy in 2 runs" in found.message
    assert "F-BUSY" not in check(text.format(9)) and "F-BUSY" not in check(text.format(""))


def test_warm_up(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,iterations,warmup_iterations\n1,64,9001,100,{0}\n2,64,16001,100,{0}\n"
    assert "0 iterations left out" in check(text.format(0))["F-WARMUP"][0].message
    assert "F-WARMUP" not in check(text.format(20))
    assert "not stated" in check("gpus,num_envs,fps\n1,64,9001\n2,64,16001\n")["F-WARMUP"][0].message


def test_warm_up_of_a_series(check: Callable[..., dict[str, list[Finding]]]) -> None:
    head = "iteration,iteration_time_s\n"
    settled = head + "\n".join(f"{i},{5.0 if i < 10 else 1 + 0.01 * (i % 3)}" for i in range(60))
    assert "the first 10 of 60" in check(settled)["F-WARMUP"][0].message
    drifting = head + "\n".join(f"{i},{10 - 0.1 * i}" for i in range(60))
    assert "not reached" in check(drifting)["F-WARMUP"][0].message
    steady = head + "\n".join(f"{i},{1 + 0.01 * (i % 3)}" for i in range(60))
    assert "F-WARMUP" not in check(steady)
    short = head + "\n".join(f"{i},1.0{i}" for i in range(9))
    assert "too few" in check(short)["F-WARMUP"][0].message


def test_profiled(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,profiled\n1,64,9001,no\n2,64,16001,{0}\n"
    assert check(text.format("nsys"))["F-PROFILED"][0].message == "measured under nsys: use the unprofiled repeat"
    assert "F-PROFILED" not in check(text.format("no"))


def test_sync(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,measurement_mode\n1,64,9001,host_return\n2,64,16001,{0}\n"
    found = check(text.format("serialized_synchronized"))["F-SYNC"][0]
    assert found.severity == "error" and "two measurement modes" in found.message and found.rows == (2,)
    assert "F-SYNC" not in check(text.format("host_return"))


def test_failed(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,status,cause\n1,64,9001,completed,\n2,64,{0}\n"
    assert (
        check(text.format(",failed,oom_device"))["F-FAILED"][0].message
        == "run failed (oom_device) at N=2: it has no number"
    )
    assert "F-FAILED" not in check(text.format("16001,completed,"))


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("gpu_model", "L40", "H100"),
        ("cpu", "Xeon", "EPYC"),
        ("driver", "550.54", "580.95"),
        ("image", "a.sif", "b.sif"),
    ],
)
def test_hardware(check: Callable[..., dict[str, list[Finding]]], column: str, first: str, second: str) -> None:
    text = f"gpus,num_envs,fps,{column}\n1,64,9001,{first}\n2,64,16001,{{0}}\n"
    found = check(text.format(second))["F-HW"][0]
    assert found.severity == "error" and first in found.message and second in found.message
    assert "F-HW" not in check(text.format(first))


def test_comparing_gpus_is_no_fault_by_itself(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpu_model,num_gpus,fps,cpu_cores\nL40,1,9001,36\nL40S,1,16001,{0}\n"
    assert "of nodes, not of GPUs" in check(text.format(96))["F-HW"][0].message
    assert "F-HW" not in check(text.format(36))


def test_versions(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,torch_version\n1,64,9001,2.10\n2,64,16001,{0}\n"
    assert "torch differs: 2.10 / 2.11" in check(text.format("2.11"))["F-VERSION"][0].message
    assert "F-VERSION" not in check(text.format("2.10"))


def test_clocks(check: Callable[..., dict[str, list[Finding]]]) -> None:
    text = "gpus,num_envs,fps,sm_clock_mhz\n1,64,9001,1980\n2,64,16001,{0}\n"
    assert "1980 / 1700 MHz" in check(text.format(1700))["F-CLOCK"][0].message
    assert "F-CLOCK" not in check(text.format(1950))


def test_mean_of_rates_needs_a_bundle(check: Callable[..., dict[str, list[Finding]]]) -> None:
    assert "F-MEAN" not in check(study())  # its positive case is a real bundle: test_ingest.py


def test_every_rule_is_documented_and_tested() -> None:
    documentation = (Path(__file__).parents[3] / "docs" / "checks.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(F-[A-Z0-9]+)` \|", documentation, re.MULTILINE))
    assert rows == set(RULES)
    here = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{rule}"' in here for rule in RULES)
