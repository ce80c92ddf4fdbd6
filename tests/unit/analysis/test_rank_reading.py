"""Reading the rows of rank records: every reader says the same, exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paceline.analysis import rankfile
from paceline.analysis.rankfile import RankFile, read_runs
from paceline.analysis.rankfile_careful import rows_line_by_line
from paceline.analysis.rankfile_fast import parse_files
from paceline.analysis.readroom import ReadRoom
from paceline.analysis.tableblocks import plain_blocks
from paceline.bench.errors import RecordError

numbers = st.one_of(
    st.none(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: round(value, 9)),
    st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.6e}")),
)


def parses(body: str, out: np.ndarray) -> bool:
    text = bytearray(b"[0]" + body.encode() + b"]")
    (count,) = parse_files(text, [(3, 3 + len(body))], plain_blocks(out), 0)
    assert count in (-1, body.count("\n"))
    return bool(count == out.shape[1])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8), st.booleans())
def test_compiled_reading_is_exact(rows: list[tuple[float | None, ...]], spaced: bool) -> None:
    body = "".join(json.dumps(list(row), separators=(", ", ":") if spaced else (",", ":")) + "\n" for row in rows)
    out = np.full((3, len(rows)), 7.0)
    if parses(body, out):  # numbers of many digits are for the other reader
        np.testing.assert_array_equal(out.T, np.array(rows, dtype=np.float64))


@settings(max_examples=300, deadline=None)
@given(st.text("[]{}0123456789.,-+eEnulN \n", max_size=60))
def test_compiled_reading_takes_nothing_but_rows(text: str) -> None:
    out = np.empty((2, text.count("\n")))
    if parses(text, out):
        np.testing.assert_array_equal(out.T.tolist(), [[np.nan if v is None else v for v in json.loads(line)]
                                                       for line in text.splitlines()])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("[1,2]\n", True),
        ("[1, null]\n", True),
        ("[-0.5,1e-09]\n", True),
        ("[12345678,0.12345678]\n", True),  # as many digits as are read at once
        ("[-9007199254740989,1e22]\n", True),
        ("[1,9007199254740990]\n", False),
        ("[1,99999999999999999999999999]\n", False),
        ("[0.00000000000000000000001,1]\n", False),
        ("[1,1e23]\n", False),
        ("[1.25E+3 , 12345678.000000001]\n", False),  # 17 digits
        ("[1,2]", False),
        ("[1]\n", False),
        ("[1,2,3]\n", False),
        ("[01,2]\n", False),
        ("[1.,2]\n", False),
        ("[.5,2]\n", False),
        ("[+1,2]\n", False),
        ("[1,NaN]\n", False),
        ("[1,nul]\n", False),
        ("[1,2]\n\n", False),
        ("[1,n", False),
        ("", False),
    ],
)
def test_what_compiled_reading_leaves_to_others(text: str, fits: bool) -> None:
    out = np.empty((2, 1))
    assert parses(text, out) is fits
    if fits:
        np.testing.assert_array_equal(out[:, 0], np.array(json.loads(text), dtype=np.float64))


def test_compiled_reading_stops_where_the_text_does() -> None:
    """Eight characters are read at once, also of the last number in a buffer."""
    out = np.full((1, 2), 7.0)
    assert parse_files(bytearray(b"[1]\n"), [(0, 4)], plain_blocks(out), 1) == [1]
    assert out.tolist() == [[7.0, 1.0]]
    assert parse_files(bytearray(b"[1]\n[12345678]\n"), [(0, 4), (4, 15)], plain_blocks(out), 0) == [1, 1]
    assert out.tolist() == [[1.0, 12345678.0]]


HEADER = {"type": "header", "schema": "paceline.rank/1", "rank": 0, "world_size": 1, "columns": ["iteration", "x", "y"]}

cells = st.one_of(
    numbers.map(json.dumps),
    st.sampled_from(
        ["true", '"1"', "[1]", "{}", "NaN", "-Infinity", "1e400", "1" * 400, "-" + "9" * 330, "", "nul", "0x1", "1 2"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(cells, min_size=2, max_size=4).filter(bool), max_size=6),
    separator=st.sampled_from([",", ", ", " , "]),
    compiled=st.booleans(),
)
@example(rows=[["1", "2", "[3]"]], separator=",", compiled=False)
@example(rows=[["1", "2", "3 4"]], separator=",", compiled=False)
@example(rows=[["1", "2", "3"], ["[4]", "5", "6"]], separator=", ", compiled=False)
def test_every_way_of_reading_says_the_same(
    rows: list[list[str]], separator: str, compiled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any file: the quick readers give the rows of the careful one, or its error."""
    body = "".join(f"[{separator.join(row)}]\n" for row in rows)
    path = tmp_path_factory.getbasetemp() / "rank-0000.jsonl"
    path.write_text(json.dumps(HEADER) + "\n" + body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankfile, "COMPILED_FROM_BYTES", 0 if compiled else 10**9)
        ((found,),) = next(read_runs([[path]]))
    try:
        expected = rows_line_by_line(body.encode(), 3, path)
    except RecordError as error:
        assert isinstance(found, RecordError) and str(found) == str(error)
    else:
        assert isinstance(found, RankFile) and found.rows is not None
        np.testing.assert_allclose(found.rows, expected, rtol=1e-15)


def test_room_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1000)
    (tmp_path / "b").write_bytes(b"b" * 3_000_000)  # more than there is at first
    room = ReadRoom()
    data, first, stop = room.text(tmp_path / "a")
    other, start, end = room.text(tmp_path / "b")
    assert data[first:stop] == b"a" * 1000 and other[start:end] == b"b" * 3_000_000
    one, two = room.numbers(2, 100_000), room.numbers(3, 100_000)
    one.fill(1)
    two.fill(2)
    assert (one == 1).all() and one.flags.c_contiguous
    room.clear()
    roomy = room.text(tmp_path / "a")[0]
    assert room.text(tmp_path / "b")[0] is roomy  # now there is room for both
    with pytest.raises(RecordError, match="cannot be read"):
        room.text(tmp_path / "none")
