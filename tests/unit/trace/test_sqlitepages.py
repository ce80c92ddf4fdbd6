"""The page reader against SQLite's own library, on tables of every kind of content and page size."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paceline.analysis import compiled
from paceline.analysis.sqlitepages import PageSource
from paceline.analysis.tablesource import Column, SqliteSource

INTEGERS = st.one_of(
    st.none(), st.integers(-2, 2), st.integers(-(2**15), 2**15), st.integers(-(2**63), 2**63 - 1), st.just(2**31)
)
SMALL = st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1))
TEXT = st.one_of(st.none(), st.sampled_from(["", "a", "physics", "é" * 40]), st.text(max_size=3000))
WANTED = {"a": "time", "b": "int", "c": "key", "d": "text", "f": "time"}


def plain(column: Column, kind: str) -> list[Any]:
    """Return the values of a column as Python values."""
    if kind in ("key", "text"):
        return [None if code < 0 else column.distinct[code] for code in column.values.tolist()]
    return list(column.values.tolist())


def same(path: Path, wanted: dict[str, str] = WANTED) -> dict[str, Column]:
    ours, theirs = PageSource(path).read("t", wanted), SqliteSource(path).read("t", wanted)
    for name, kind in wanted.items():
        assert plain(ours[name], kind) == plain(theirs[name], kind), name
    return ours


def make(path: Path, rows: list[tuple[Any, ...]], page_bytes: int = 4096) -> Path:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE t (a INTEGER, e TEXT, b INTEGER, c INTEGER, d TEXT, f INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    return path


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(INTEGERS, TEXT, SMALL, INTEGERS, TEXT, INTEGERS), max_size=60),
    page_bytes=st.sampled_from([512, 4096, 65536]),
)
def test_random_tables(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], page_bytes: int) -> None:
    same(make(tmp_path_factory.getbasetemp() / "pages.sqlite", rows, page_bytes))


def test_many_pages_and_distinct_values(tmp_path: Path) -> None:
    """Enough rows for three levels of pages and for the lists of distinct values to grow."""
    rows = [(i, "x" * (i % 50), i % 1000, i * 7, f"name {i % 20_000}", -i) for i in range(60_000)]
    found = same(make(tmp_path / "t.sqlite", rows, 512))
    assert len(found["d"].distinct) == 20_000 and len(found["c"].distinct) == 60_000


def test_integers_beyond_32_bits_in_an_int_column(tmp_path: Path) -> None:
    found = same(make(tmp_path / "t.sqlite", [(1, None, value, 1, None, 1) for value in (5, None, 2**40, -1)]))
    assert found["b"].values.tolist() == [5, -1, 2**40, -1]
    assert found["b"].values.dtype == np.int64


def test_deleted_rows_and_added_columns(tmp_path: Path) -> None:
    path = make(tmp_path / "t.sqlite", [(i, "e", i, i, "d", i) for i in range(5000)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM t WHERE a % 3 = 0")
        connection.execute("ALTER TABLE t ADD COLUMN g INTEGER")
        connection.execute("INSERT INTO t VALUES (1, 'e', 2, 3, 'd', 4, 5)")
        connection.commit()
    found = same(path, {**WANTED, "g": "int"})
    assert found["g"].values[-1] == 5 and set(found["g"].values[:-1].tolist()) == {-1}


def test_what_the_page_reader_leaves_to_the_library(tmp_path: Path) -> None:
    """Row-number keys, fractions in integer columns, UTF-16 files and write-ahead logs: read right all the same."""
    for number, statements in enumerate(
        (
            ["CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER, c INTEGER, d TEXT, f INTEGER)"],
            ["PRAGMA encoding = 'UTF-16'", "CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER, d TEXT, f INTEGER)"],
            ["CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER, c INTEGER, d TEXT, f INTEGER) WITHOUT ROWID"],
            ["CREATE TABLE t (a INTEGER, b, c INTEGER, d TEXT, f INTEGER)"],
        )
    ):
        path = tmp_path / f"{number}.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO t VALUES (3, 2.0, 1, 'x', 0)")
            connection.commit()
        if number == 1:
            assert plain(PageSource(path).read("t", WANTED)["a"], "time") == [3]
        else:
            same(path)
    path = make(tmp_path / "wal.sqlite", [(1, "e", 1, 1, "d", 1)])
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO t VALUES (2, 'e', 2, 2, 'd', 2)")
        writer.commit()
        assert PageSource(path).read("t", WANTED)["a"].values.tolist() == [1, 2]


def test_numba_is_there() -> None:
    """The fast extra is part of the development environment: tests of it must not fall back in silence."""
    assert compiled.available()
