"""Scrubbing: a token planted wherever nsys keeps text is in no byte of the copy, which still analyses the same."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from paceline.analysis import trace
from paceline.analysis.redact import MASK, Redactor
from paceline.analysis.scrub import scrub
from paceline.bench.errors import TraceError

from tests.tracegen import Call, Operation, Range, Rows, write

TOKEN = "zV9kQ4tokenplanted7Xw2"


def plant(path: Path) -> int:
    """Put the token into every text column of every table, into new rows of all of them, and into the environment."""
    places = 0
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            for _, column, kind, *_, key in columns:
                if kind == "TEXT":
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = "{column}" || ? WHERE rowid % 3 = 0', (TOKEN,)
                    )
                    places += 1
                elif not key:  # SQLite stores text in number columns too
                    connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = 2', (TOKEN,))
                    places += 1
        connection.execute(
            "INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', ?)", (f"WANDB_API_KEY={TOKEN}",)
        )
        connection.execute("INSERT INTO StringIds VALUES (99999999, ?)", (f"stdout: my token is {TOKEN}",))
        connection.execute(
            "INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES (0, 'Device', 'DeviceEnvironment', 1, ?)",
            (f"A=b\nHF={TOKEN}\n",),
        )
        connection.execute(f'CREATE TABLE "NEW_IN_2027 {TOKEN}" (text TEXT)')
        connection.execute(f'INSERT INTO "NEW_IN_2027 {TOKEN}" VALUES (?)', (TOKEN,))
        connection.commit()
    return places


def test_a_planted_token_is_nowhere_in_the_copy(cartpole: Path, tmp_path: Path) -> None:
    path = tmp_path / "planted.sqlite"
    shutil.copy(cartpole, path)
    assert plant(path) > 300
    assert path.read_bytes().count(TOKEN.encode()) > 1000
    done = scrub(path, tmp_path / "clean.sqlite")
    content = done.path.read_bytes()
    assert TOKEN.encode() not in content
    assert TOKEN.encode("utf-16-le") not in content
    assert "META_DATA_CAPTURE" in done.kept and "ProcessStreams" in done.dropped and done.redacted > 100


def test_a_variable_named_like_a_range_takes_no_name_away(cartpole: Path, tmp_path: Path) -> None:
    """SLURM_JOB_NAME=inference, and a value that is also a kernel's word."""
    path = tmp_path / "named.sqlite"
    shutil.copy(cartpole, path)
    variables = ("SLURM_JOB_NAME=inference", "JOB=paceline", "OTHER=vectorized_elementwise_kernel")
    with closing(sqlite3.connect(path)) as connection:
        for variable in variables:
            connection.execute(
                "INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', ?)", (variable,)
            )
        connection.commit()
    clean = scrub(path, tmp_path / "clean.sqlite").path
    assert "inference" in {row["name"] for row in trace.analyse(clean).ranges}
    assert b"vectorized_elementwise_kernel" not in clean.read_bytes()


def test_only_listed_tables_and_texts_are_copied(cartpole: Path, tmp_path: Path) -> None:
    """No environment variable, process list, output or thread name: without looking for any particular value."""
    done = scrub(cartpole, tmp_path / "clean.sqlite")
    with closing(sqlite3.connect(done.path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert not tables & {"ProcessStreams", "ANALYSIS_FILE", "ThreadNames", "TARGET_INFO_SYSTEM_ENV"}
        names = {name for (name,) in connection.execute("SELECT name FROM META_DATA_CAPTURE")}
        assert names == {"CAPTURE_EVENT_TYPE", "PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE"}
        assert connection.execute("SELECT count(*) FROM PROCESSES WHERE name IS NOT NULL").fetchone() == (0,)
        (uuid,) = connection.execute("SELECT uuid FROM TARGET_INFO_GPU").fetchone()
        assert uuid.startswith("scrubbed-")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_copy_analyses_the_same(cartpole: Path, tmp_path: Path) -> None:
    before, after = trace.analyse(cartpole), trace.analyse(scrub(cartpole, tmp_path / "clean.sqlite").path)
    assert after.ranges == before.ranges and after.kernels == before.kernels and after.gaps == before.gaps
    assert after.diagnosis == before.diagnosis and after.graph_trace == before.graph_trace
    assert after.details["gpus"] == ["NVIDIA H200"]


def test_parquet(cartpole: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted.sqlite"
    shutil.copy(cartpole, planted)
    with closing(sqlite3.connect(planted)) as connection:
        connection.execute("UPDATE NVTX_EVENTS SET text = ? WHERE text = 'update'", (f"update {TOKEN}",))
        connection.execute(
            "INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', ?)", (f"SECRET={TOKEN}",)
        )
        connection.execute("INSERT INTO StringIds VALUES (99999999, ?)", (f"stdout {TOKEN}",))
        connection.commit()
    folder = to_parquet(planted, tmp_path / "planted_pqtdir")
    done = scrub(folder, tmp_path / "clean_pqtdir")
    assert not any(TOKEN.encode() in file.read_bytes() for file in done.path.iterdir())
    names = {row["name"] for row in trace.analyse(done.path).ranges}
    assert names >= {"env_step", "physics", f"update {MASK}"}
    text = " ".join(row["name"] for row in trace.analyse(done.path).kernels)
    assert "vectorized_elementwise_kernel" in text


def to_parquet(path: Path, folder: Path) -> Path:
    """Write the tables of an export as nsys's parquetdir does."""
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    folder.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            data = {name: pa.array([row[index] for row in rows], kinds[kind]) for index, name, kind, *_ in columns}
            pyarrow.parquet.write_table(pa.table(data), folder / f"{table}.parquet")
    return folder


def test_sqlite_becomes_small_parquet(cartpole: Path, tmp_path: Path) -> None:
    """The same numbers in a fraction of the room, and as clean."""
    planted = tmp_path / "planted.sqlite"
    shutil.copy(cartpole, planted)
    with closing(sqlite3.connect(planted)) as connection:
        connection.execute("UPDATE NVTX_EVENTS SET text = ? WHERE text = 'update'", (f"update {TOKEN}",))
        connection.execute(
            "INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', ?)", (f"SECRET={TOKEN}",)
        )
        connection.commit()
    folder = scrub(planted, tmp_path / "clean_pqtdir").path
    before, after = trace.analyse(planted), trace.analyse(folder)
    for table in ("kernels", "gaps", "api", "graph_nodes"):
        masked = json.dumps(getattr(before, table)).replace(TOKEN, MASK)
        assert json.loads(masked) == getattr(after, table), table
    assert {row["name"] for row in after.ranges} >= {"physics", f"update {MASK}"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 0.15 * planted.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_parquet_and_sqlite_agree(cartpole: Path, tmp_path: Path) -> None:
    first, second = trace.analyse(cartpole), trace.analyse(to_parquet(cartpole, tmp_path / "p_pqtdir"))
    assert first.ranges == second.ranges and first.kernels == second.kernels and first.gaps == second.gaps


@pytest.mark.parametrize(
    "text",
    [
        "ghp_0123456789abcdefABCDEF",
        "hf_abcdefghijklmnopqrstuv",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
        "password=hunter2",
        "https://user:secret@example.org/x",
        "someone@example.org",
        "/srv/someone/project/train.py",
        "10.20.30.40",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_forms_of_secrets(text: str) -> None:
    assert text not in Redactor()(f"range {text} end")
    assert MASK in Redactor()(f"range {text} end")


@pytest.mark.parametrize(
    "name",
    [
        "void at::native::vectorized_elementwise_kernel<(int)4, at::native::FillFunctor<float>>(int, T2, T3)",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "get_joint_acc_from_joint_vel_2ab71688_cuda_kernel_forward",
        "cub::DeviceSelect::Flagged",
        "env_step",
        "rank=3 world=8 local=3",
    ],
)
def test_names_that_stay(name: str) -> None:
    assert Redactor([("USER", "step"), ("SHLVL", "1")])(name) == name


def small(folder: Path) -> Path:
    return write(folder / "t.sqlite", Rows([Range(0, 9, "a")], [Call(1, 2, 1)], [Operation(3, 4, 1)]))


def test_refusals(tmp_path: Path) -> None:
    path = small(tmp_path)
    (tmp_path / "taken.sqlite").write_bytes(b"x")
    with pytest.raises(TraceError, match="exists"):
        scrub(path, tmp_path / "taken.sqlite")
    with pytest.raises(TraceError, match="no such folder"):
        scrub(path, tmp_path / "nowhere" / "t.sqlite")
    report = tmp_path / "r.nsys-rep"
    report.write_bytes(b"\x00")
    with pytest.raises(TraceError, match="a report cannot be scrubbed"):
        scrub(report, tmp_path / "out.sqlite")
    assert not (tmp_path / "out.sqlite").exists()


def test_disk_full(cartpole: Path, tmp_path: Path) -> None:
    """The system refuses to let the copy grow: one clear error, and nothing left behind."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from paceline.analysis.scrub import scrub\n"
        "from paceline.bench.errors import TraceError\n"
        "try:\n    scrub(sys.argv[1], sys.argv[2])\n"
        "except TraceError as error:\n    print(error)\n"
    )
    output = tmp_path / "out.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", program, str(cartpole), str(output)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{output}: cannot be written (") and done.stdout.count("\n") == 1
    assert not output.exists()
