"""What cannot be read gives one clear line and exit code 2; what people really write can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.plain_csv import MAX_BYTES, parse_csv
from paceline.bench.cli import main

GOOD = "gpus,num_envs,total_fps,repeats,warmup\n1,64,1001,3,5\n2,64,1903,3,5\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (bytes(range(256)) * 4, "a binary file"),
        ("gpus,fps\n1,5\n".encode("utf-16"), "UTF-16"),
        (b"gpus,fps,note\n1,5,\xe9\n", "line 2 is not UTF-8 (byte 0xe9)"),
        (b"gpus;fps\n1;5\n", "separated by ';'; commas are expected"),
        (b"gpus\tfps\n1\t5\n", "separated by tabs"),
        (b"gpus,fps\n", "no data rows"),
        (b"gpus,fps\n1,5,7\n", "data row 1 has 3 cells, the header has 2"),
        (b"gpus,colour\n1,5\n", "no column of a rate or time is known (columns: gpus, colour)"),
        (b"fps,colour\n1,red\n", "no column says what varies"),
        (b"gpus,fps\n1,-5\n", "data row 1, column 'fps': '-5' is negative"),
        (b"gpus,fps\n1,5\n2,0\n", "'0' is zero"),
        (b"gpus,fps\n1,5\n2,nan\n", "data row 2, column 'fps': 'nan' is not a number"),
        (b"gpus,fps\n1,5\n2,inf\n", "'inf' is not a number"),
        (b"gpus,fps\n1,5\n2,6\n4,fast\n", "data row 3, column 'fps': 'fast' is not a number"),
        (b"gpus,fps\n1.5,5\n", "'1.5' is not a whole number"),
        (b'gpus,fps\n1,"5\n', "not valid CSV"),
        (b'{"schema_version": "9.9", "run": {}}', "bundle schema '9.9'"),
        (b'{"a": 1}', "not a benchmark bundle"),
        (b"{broken", "not valid JSON"),
    ],
)
def test_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert main(["check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert says in err and str(path) in err


def test_missing_file_folder_and_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.csv")]) == 2
    assert main(["check", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_huge_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "huge.csv"
    with open(path, "wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # sparse: takes no space, and must not be read
    assert main(["check", str(path)]) == 2
    assert "too large for a table of results" in capsys.readouterr().err


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "strong.csv"
    path.write_text(GOOD)
    assert main(["check", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    path.write_text(GOOD.replace("2,64", "2,128"))
    assert main(["check", str(path), "--format", "json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert set(finding) == {"id", "severity", "rows", "message", "advice"}
    assert finding["id"] == "F-MODE" and finding["severity"] == "error" and finding["rows"] == [1, 2]
    assert main(["check", str(path), "--mode", "weak", "--format", "json"]) == 0
    capsys.readouterr()
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error  F-MODE  (rows 1, 2)") and out.rstrip().endswith("1 error(s), 0 warning(s)")


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("GPUs,FPS step,step+inference,total,s/epoch", "4,1.1M,910k,510k,0.25", [4, 1.1e6, 910e3, 510e3, 0.25]),
        ("N,fps step,fps step and policy inference,fps total,time per epoch [ms]", "4,3,2,1,250", [4, 3, 2, 1, 0.25]),
        (
            "World Size,Env Step FPS,step_inference_fps,Throughput (frames/s),Epoch Time (s)",
            "4,3,2,1,0.25",
            [4, 3, 2, 1, 0.25],
        ),
        (
            "num_gpus,step,step+inf,total_fps,sec per iter",
            '4,"1,146,000","864,000","422,000",1.24',
            [4, 1146000, 864000, 422000, 1.24],
        ),
        (
            "Number of GPUs,fps_step_frames_per_s,FPS step & inference,steps/s,iteration time",
            "4,3,2,1,0.25",
            [4, 3, 2, 1, 0.25],
        ),
    ],
)
def test_headers_as_people_write_them(header: str, row: str, expected: Any) -> None:
    table = parse_csv(f"{header}\n{row}\n", "t.csv")
    names = ("world_size", "fps_step", "fps_step_inference", "total_fps", "iteration_time_s")
    assert [table.number(name)[0] for name in names] == pytest.approx(expected)


def test_gpu_is_a_count_or_a_model() -> None:
    assert parse_csv("gpu,fps\n1,5\n2,9\n", "t.csv").world_sizes().tolist() == [1, 2]
    assert parse_csv("gpu,fps\nL40,5\nH100,9\n", "t.csv").text("gpu") == ("L40", "H100")


def test_byte_order_mark_comments_and_crlf() -> None:
    table = parse_csv("# from my notebook\r\ngpus,fps\r\n1,5\r\n\r\n2,9\r\n", "t.csv")
    assert table.number("total_fps").tolist() == [5, 9]
