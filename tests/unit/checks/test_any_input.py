"""Whatever a file holds, the answer is findings or one clear error."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paceline.analysis.checks import as_text, check_table
from paceline.analysis.columns import NUMBER_ALIASES, TEXT_ALIASES, identify, normalise, parse_number
from paceline.analysis.laws import fit
from paceline.analysis.plain_csv import parse_csv
from paceline.analysis.rl_games_log import is_log as is_rl_games
from paceline.analysis.rl_games_log import parse as parse_rl_games
from paceline.analysis.rsl_rl_log import is_log as is_rsl_rl
from paceline.analysis.rsl_rl_log import parse as parse_rsl_rl
from paceline.bench.errors import RecordError

number = st.one_of(
    st.integers(0, 10**7).map(str),
    st.floats(0, 1e7, allow_nan=False).map(repr),
    st.sampled_from(["", "1", "2", "4", "8", "1.1M", "64", "-1", "nan", "n/a", "x", "1,000", "36 %", "1e400"]),
)
word = st.sampled_from(["", "yes", "no", "strong", "weak", "rl_games", "rsl_rl", "L40", "H100", "failed", "overflow"])


@st.composite
def tables(draw: st.DrawFn) -> str:
    numbers = draw(st.lists(st.sampled_from(sorted(NUMBER_ALIASES)), max_size=10, unique=True))
    texts = draw(st.lists(st.sampled_from(sorted(TEXT_ALIASES)), max_size=4, unique=True))
    rows = draw(st.integers(1, 6))
    lines = [",".join([*numbers, *texts, "total_fps"])]
    for _ in range(rows):
        cells = [draw(number) for _ in numbers] + [draw(word) for _ in texts] + [draw(number)]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(lines)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tables(), st.sampled_from(["t.csv", "strong.csv", "weak.csv"]))
def test_any_table(text: str, name: str) -> None:
    try:
        table = parse_csv(text, name)
    except RecordError as error:
        assert "\n" not in str(error) and name in str(error)
        return
    found = check_table(table)
    for finding in found:
        assert finding.rows and set(finding.rows) <= set(table.rows)
        assert "nan" not in finding.message.lower().replace("nano", "") and "\n" not in finding.message
    as_text(found, name)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    table = None
    with contextlib.suppress(RecordError):
        table = parse_csv("gpus,fps\n" + text, "t.csv")
    if table is not None:
        check_table(table)


LINES = st.sampled_from(
    [
        "fps step: 565415 fps step and policy inference: 434748 fps total: 234591 epoch: 15/150 frames: 1835008",
        "fps step: 0 fps step and policy inference: 0 fps total: 0 epoch: 1/3 frames: 0",
        "fps step: 7 fps step and policy inference: 6 fps total: 5",
        "Learning iteration 3/500",
        "Computation: 45678 steps/s (collection: 1.234s, learning 0.123s)",
        "Computation: 0 steps/s (collection: 0.000s, learning 0.000s)",
        "Steps per second: 433 \n Collection time: 0.199s \n Learning time: 2.164s",
        "Total timesteps: 98304",
        "Total steps: 3072",
        "Patch buffer overflow detected, please increase its size to at least 163840",
        "",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=40))
def test_any_log(lines: list[str]) -> None:
    text = "\n".join(lines)
    for known, parse in ((is_rl_games, parse_rl_games), (is_rsl_rl, parse_rsl_rl)):
        if known(text):
            check_table(parse(text, "train.log"))


@given(st.lists(st.floats(1.0, 1e9), min_size=2, max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_curve_can_be_fitted(values: list[float]) -> None:
    sizes = [2.0**k for k in range(len(values))]
    for model in ("amdahl", "gustafson", "usl_fixed_lambda", "usl_free_lambda", "power_law"):
        law = fit(model, sizes, values)
        assert all(math.isfinite(v) for v in law.parameters.values())
        assert not (law.identifiable and len(law.parameters) > len(values) - 2)


@pytest.mark.parametrize("name", sorted(NUMBER_ALIASES))
def test_every_name_means_itself(name: str) -> None:
    assert identify(name, numeric=True) == (name, 1.0)
    for alias in NUMBER_ALIASES[name].split():
        assert normalise(alias) == alias, "an alias that no header can become"
        assert identify(alias, numeric=True) == (name, 1.0), "an alias of two quantities"


def test_numbers_as_people_write_them() -> None:
    told = {"1,146,000": 1146000, "1.1M": 1.1e6, "910k": 910e3, "~35": 35, "1.06x": 1.06, "36 %": 36, "1e3": 1000}
    assert {cell: parse_number(cell, "") for cell in told} == told
    assert [parse_number(cell, "") for cell in ("", "n/a", "-", "not stated")] == [None] * 4
    for cell in ("nan", "-inf", "-3", "fast", "1.2.3", "1e400"):
        with pytest.raises(RecordError):
            parse_number(cell, "here")
