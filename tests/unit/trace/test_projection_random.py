"""The projection against the slow reference, on random captures: any nesting, any disorder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paceline.analysis import nsys
from paceline.analysis.capture import COPY_KINDS, START_END
from paceline.analysis.projection import engine, project

from tests.tracegen import Call, Operation, Range, Rows, write
from tests.unit.trace import reference

TIME = st.integers(1, 60)
SMALL = st.integers(1, 2)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    start = draw(TIME)
    style = draw(st.sampled_from(["push_pop", "push_pop", "push_pop", "start_end"]))
    return Range(
        start=start,
        end=draw(st.one_of(st.none(), TIME, st.integers(start, 70), st.integers(start, 70))),
        name=draw(st.one_of(st.sampled_from(["a", "b", "c", "é"]), st.just(b"\xff\xfe"))),
        pid=draw(SMALL),
        tid=draw(SMALL),
        domain=draw(st.integers(0, 2)),
        style=style,
        end_tid=draw(st.one_of(st.none(), SMALL)) if style == "start_end" else None,
    )


@st.composite
def calls(draw: st.DrawFn) -> Call:
    start = draw(TIME)
    end = draw(st.one_of(st.integers(start, start + 6), st.integers(start, 70), TIME))
    return Call(start, end, draw(st.integers(1, 8)), draw(SMALL), draw(SMALL))


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    start = draw(TIME)
    return Operation(
        start=start,
        end=draw(st.one_of(st.integers(start, start + 10), TIME)),
        correlation=draw(st.integers(1, 9)),
        pid=draw(SMALL),
        device=draw(st.integers(0, 1)),
        stream=draw(SMALL),
        kind=draw(st.sampled_from(["kernel", "kernel", "memcpy", "memset", "graph"])),
        name=draw(st.sampled_from(["step", "ncclDevKernel_AllReduce", "reduce"])),
        bytes=draw(st.integers(0, 9)),
        copy_kind=draw(st.sampled_from([0, 1, 2, 8, 10])),
    )


def captures(max_rows: int = 14) -> st.SearchStrategy[Rows]:
    return st.builds(
        Rows,
        ranges=st.lists(ranges(), min_size=1, max_size=max_rows),
        calls=st.lists(calls(), max_size=max_rows),
        operations=st.lists(operations(), max_size=max_rows),
    )


def projected(rows: Rows, fast: bool, **how: Any) -> dict[tuple[int, str, str, str], dict[str, Any]]:
    """Return what the projection says about rows that went through an SQLite export, in the reference's form."""
    with tempfile.TemporaryDirectory() as folder:
        capture = nsys.load(write(Path(folder) / "t.sqlite", rows, **how), fast=fast)
    projection = project(capture, engine(fast))
    result = {}
    for index, (process, label, style) in enumerate(projection.groups):
        domain, name = capture.labels[label]
        key = (capture.processes[process].pid, domain, name, "start_end" if style == START_END else "push_pop")
        values: dict[str, Any] = {n: int(v[index]) for n, v in projection.per_group.items() if n != "copied"}
        values["copied"] = {kind: int(projection.per_group["copied"][index][i]) for i, kind in enumerate(COPY_KINDS)}
        result[key] = values
    return result


def agree(found: dict[Any, dict[str, Any]], expected: dict[Any, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert {name: found[key][name] for name in values} == values, key


@pytest.mark.parametrize("fast", [False, True])
@settings(max_examples=40, deadline=None)
@given(
    rows=captures(), how=st.fixed_dictionaries({"registered": st.booleans(), "suffix": st.sampled_from(["", "_V3"])})
)
def test_random_captures(rows: Rows, how: dict[str, Any], fast: bool) -> None:
    agree(projected(rows, fast, **how), reference.project(rows))


@st.composite
def nested(draw: st.DrawFn) -> Rows:
    """A capture as a program would make it: ranges nest, every launch has its id, runtime calls wrap driver calls."""
    rows = Rows()
    for pid in (1, 2):
        clock, correlation, open_ranges = 0, 0, []
        for _ in range(draw(st.integers(0, 25))):
            clock += draw(st.integers(0, 3))
            action = draw(st.sampled_from(["push", "pop", "launch", "launch", "graph"]))
            if action == "push":
                open_ranges.append(Range(clock, None, draw(st.sampled_from("abc")), pid))
                rows.ranges.append(open_ranges[-1])
            elif action == "pop" and open_ranges:
                open_ranges.pop().end = clock
            elif action in ("launch", "graph"):
                correlation += 1
                rows.calls.append(Call(clock, clock + 4, correlation, pid))
                if draw(st.booleans()):
                    rows.calls.append(Call(clock + 1, clock + 3, correlation, pid, name="cuLaunchKernel"))
                clock += 4
                for _ in range(draw(st.integers(1, 4)) if action == "graph" else 1):
                    begin = clock + draw(st.integers(0, 9))
                    rows.operations.append(Operation(begin, begin + draw(st.integers(0, 9)), correlation, pid))
    if not rows.ranges:
        rows.ranges.append(Range(1, 2, "a"))
    draw(st.randoms()).shuffle(rows.ranges)
    draw(st.randoms()).shuffle(rows.operations)
    return rows


@pytest.mark.parametrize("fast", [False, True])
@settings(max_examples=30, deadline=None)
@given(rows=nested())
def test_captures_of_programs(rows: Rows, fast: bool) -> None:
    agree(projected(rows, fast), reference.project(rows))
