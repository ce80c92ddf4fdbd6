"""Loading a study folder: everything in it becomes a row, whatever state it is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paceline.analysis import rankfile, readroom
from paceline.analysis.iterationcolumns import IterationColumns
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.rankfile import RankFile, read_runs
from paceline.bench.errors import RecordError
from paceline.bench.record import ITERATION_COLUMNS
from paceline.bench.rundir import RunDir, StudyDir

from tests.synthetic import Recipe, case_of, write_failure, write_run, write_study, write_study_yaml

SMALL = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5, true_warmup=3)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(tmp_path, SMALL)
    return tmp_path


SINGLE = ("collectives", "optimizer_steps", "reward", "episode_length", "reported_iteration_time_s")


def run_of(study: Path, world_size: int, repeat: int, attempt: int = 1) -> RunDir:
    return StudyDir(study).run(case_of(SMALL, world_size, repeat).case_id, attempt)


def same_study(used: Loaded, expected: Loaded) -> None:
    pd.testing.assert_frame_equal(used.runs, expected.runs)
    pd.testing.assert_frame_equal(used.iterations, expected.iterations, rtol=1e-14)
    pd.testing.assert_frame_equal(used.samples, expected.samples)
    assert used.warnings == expected.warnings and used.headers == expected.headers


def test_tables(study: Path) -> None:
    loaded = load_study(study)
    assert len(loaded.runs) == 5  # four, and the warm-up run
    assert loaded.runs["counts"].sum() == 4
    assert len(loaded.iterations) == (1 + 1 + 1 + 2 + 2) * 20
    assert list(loaded.iterations.columns[:2]) == ["run", "rank"]
    assert set(ITERATION_COLUMNS) <= set(loaded.iterations.columns)
    assert set(loaded.samples["source"]) == {"node", "gpu", "rank"}
    assert loaded.warnings == []


def test_values_are_those_of_the_files(study: Path) -> None:
    loaded = load_study(study)
    run = run_of(study, 2, 1)
    number = int(loaded.runs.index[loaded.runs["path"] == str(run.path)][0])
    own = loaded.iterations[(loaded.iterations["run"] == number) & (loaded.iterations["rank"] == 1)]
    lines = run.rank_jsonl(1).read_text().splitlines()
    header, rows = json.loads(lines[0]), [json.loads(line) for line in lines[1:-1]]
    for position, name in enumerate(header["columns"]):
        expected = np.array([np.nan if row[position] is None else row[position] for row in rows], dtype=float)
        single = own[name].dtype == np.float32
        assert single == (name in SINGLE)
        tolerance = 1e-6 if single else 1e-14
        np.testing.assert_allclose(own[name].to_numpy(dtype=float), expected, rtol=tolerance, err_msg=name)


def test_newest_completed_attempt_counts(study: Path) -> None:
    write_failure(run_of(study, 2, 0, 2), case_of(SMALL, 2, 0), "oom_device", "out of memory")
    write_run(run_of(study, 2, 0, 3), SMALL, 2, 0, np.random.default_rng(5))
    runs = load_study(study).runs
    own = runs[runs["case_id"] == case_of(SMALL, 2, 0).case_id].set_index("attempt")
    assert own["counts"].to_dict() == {1: False, 2: False, 3: True}
    assert own.at[1, "left_out"] == "older"
    assert own.at[2, "cause"] == "oom_device"


def test_runs_of_another_study_are_listed_and_left_out(study: Path) -> None:
    other = Recipe(world_sizes=(1,), iterations=30, warmup_iterations=5)
    write_run(StudyDir(study).run(case_of(other, 1, 0).case_id, 1), other, 1, 0, np.random.default_rng(5))
    runs = load_study(study).runs
    row = runs[runs["iterations"] == 30].iloc[0]
    assert not row["counts"]
    assert row["why_not"] == "iterations is 30, the study has 20"


def _no_end(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def _foreign(path: Path) -> None:
    path.write_text(path.read_text().replace("paceline.rank/1", "paceline.rank/2", 1))


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 50)


def _bad_row(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace(",", ";", 1)
    path.write_text("".join(lines))


def _short_row_long_row(path: Path) -> None:
    """The same number of values in all, in rows of the wrong lengths."""
    lines = path.read_text().splitlines()
    lines[4], lines[5] = json.dumps(json.loads(lines[4])[:-1]), json.dumps([*json.loads(lines[5]), 1])
    path.write_text("\n".join(lines) + "\n")


def _text_in_row(path: Path) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[6])
    row[4] = "0.5"
    lines[6] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


def _true_in_row(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[6] = json.dumps([True, *json.loads(lines[6])[1:]])
    path.write_text("\n".join(lines) + "\n")


def _fewer_rows(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:10] + lines[12:]))


def _cell(column: int, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        lines = path.read_text().splitlines()
        row = json.loads(lines[6])
        row[column] = value
        lines[6] = json.dumps(row)
        path.write_text("\n".join(lines) + "\n")

    return damage


def _other_rank(path: Path) -> None:
    path.write_text(path.read_text().replace('"rank": 1,', '"rank": 0,', 1))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "records of 1 of 2 ranks"),
        (_no_end, "no end record"),
        (_cut, "cut short"),
        (_foreign, "schema is 'paceline.rank/2'"),
        (_binary, "truncated"),
        (_bad_row, "line 8 is not valid JSON"),
        (_short_row_long_row, "line 5: expected an array"),
        (_text_in_row, "line 7: a value is neither a number nor null"),
        (_true_in_row, "line 7: a value is neither a number nor null"),
        (_fewer_rows, "18 iterations, the case asked for 20"),
        (lambda path: path.write_text(""), "header line is not complete"),
        (_cell(0, None), "null in iteration, sync or warmup"),
        (_cell(0, 2**31), "hold numbers that they cannot have"),
        (_cell(1, -1), "hold numbers that they cannot have"),
        (_cell(2, 2), "hold numbers that they cannot have"),
        (_other_rank, "records of 2 of 2 ranks"),
    ],
)
def test_damaged_record_is_a_labelled_row(
    study: Path, damage: Callable[[Path], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(run_of(study, 2, 0).rank_jsonl(1))
    loaded = load_study(study)
    monkeypatch.setattr(rankfile, "COMPILED_FROM_BYTES", 0)
    monkeypatch.setattr(rankfile, "_BATCH_FILES", 2)  # sound batches before and after
    same_study(load_study(study), loaded)
    row = loaded.runs[loaded.runs["path"] == str(run_of(study, 2, 0).path)].iloc[0]
    assert row["status"] == "unreadable"
    assert says in row["message"]
    assert "\n" not in row["message"]
    assert str(study) not in row["message"]  # the report travels, the folder's place does not
    assert not row["counts"]
    assert loaded.runs["counts"].sum() == 3


def test_missing_and_broken_files_of_a_run(study: Path) -> None:
    run_of(study, 1, 0).result_json.unlink()
    run_of(study, 1, 1).case_json.unlink()
    run_of(study, 2, 0).result_json.write_text('{"schema": "paceline.result/9"}')
    case = json.loads(run_of(study, 2, 1).case_json.read_text())
    run_of(study, 2, 1).case_json.write_text(json.dumps(case | {"num_envs": 32768}))
    loaded = load_study(study)
    runs = loaded.runs.set_index("path")
    assert runs.at[str(run_of(study, 1, 0).path), "status"] == "unfinished"
    assert "missing" in str(runs.at[str(run_of(study, 1, 1).path), "message"])
    assert "paceline.result/9" in str(runs.at[str(run_of(study, 2, 0).path), "message"])
    assert "does not match its content" in str(runs.at[str(run_of(study, 2, 1).path), "message"])
    assert not loaded.runs["counts"].any()


def test_unreadable_samples_are_a_warning(study: Path) -> None:
    run_of(study, 1, 0).samples_jsonl("node1").write_text("{}\n")
    path = run_of(study, 1, 1).samples_jsonl("node1")
    path.write_text(path.read_text()[:-30])  # cut short by the end of the job: no news
    warnings = load_study(study).warnings
    assert len(warnings) == 1
    assert "schema is None" in warnings[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no study there"),
        ("", "no study there"),
        ("- 1\n", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_what_is_no_study_folder(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(RecordError, match=says) as caught:
        load_study(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordError, match="no such study folder"):
        load_study(tmp_path / "nowhere")


def test_study_without_runs(tmp_path: Path) -> None:
    write_study_yaml(tmp_path, SMALL)
    loaded = load_study(tmp_path)
    assert len(loaded.runs) == len(loaded.iterations) == len(loaded.samples) == 0


def test_columns_of_later_and_earlier_versions(study: Path) -> None:
    """A column that this version does not know is kept, one that an old record lacks is unknown."""
    path = run_of(study, 1, 0).rank_jsonl(0)
    header, *rows, end = [json.loads(line) for line in path.read_text().splitlines()]
    header["columns"] = [*header["columns"][:-1], "novelty"]
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *rows, end)))
    loaded = load_study(study)
    own = loaded.iterations[loaded.iterations["run"] == loaded.runs.index[loaded.runs["path"] == str(path.parent)][0]]
    assert own[ITERATION_COLUMNS[-1]].isna().all()
    assert own["novelty"].tolist() == pytest.approx([row[-1] for row in rows])
    others = loaded.iterations.drop(own.index)
    assert others["novelty"].isna().all() and others[ITERATION_COLUMNS[-1]].notna().all()
    assert loaded.runs["counts"].sum() == 4


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_fast_and_careful_reading_agree(study: Path, separators: tuple[str, str]) -> None:
    path = run_of(study, 2, 0).rank_jsonl(0)
    lines = [json.dumps(json.loads(line), separators=separators) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    broken = run_of(study, 2, 0).rank_jsonl(1)
    ((fast,),) = next(read_runs([[path]]))
    _bad_row(broken)  # sends the whole batch the careful way
    ((careful, error),) = next(read_runs([[path, broken]]))
    assert isinstance(fast, RankFile) and isinstance(careful, RankFile) and isinstance(error, RecordError)
    assert fast.rows is not None and careful.rows is not None
    np.testing.assert_allclose(fast.rows, careful.rows, rtol=1e-15)


def test_sound_records_go_straight_into_the_table(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_study(study)
    monkeypatch.setattr(rankfile, "COMPILED_FROM_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(IterationColumns, "_copy", None)  # not needed
        same_study(load_study(study), plain)
    for path in study.glob("runs/*/*/case.json"):
        path.unlink()  # nothing promises any rows
    monkeypatch.setattr(rankfile, "_BATCH_FILES", 1)
    pd.testing.assert_frame_equal(load_study(study).iterations, plain.iterations, rtol=1e-14)


def test_many_batches_keep_their_order(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is used again for later batches: no row of an earlier one may change, on any path."""
    _text_in_row(run_of(study, 2, 0).rank_jsonl(0))
    whole = load_study(study)
    for compiled_from, files, text in ((1, 1, 1), (10**9, 1, 10**6), (1, 3, 1), (1, 9, 10_000), (1, 3, 10**6)):
        monkeypatch.setattr(rankfile, "COMPILED_FROM_BYTES", compiled_from)
        monkeypatch.setattr(readroom, "_TEXT_BYTES", text)  # a batch in one buffer or in several
        monkeypatch.setattr(rankfile, "_BATCH_FILES", files)
        used = load_study(study)
        pd.testing.assert_frame_equal(used.runs, whole.runs)
        pd.testing.assert_frame_equal(used.iterations, whole.iterations, rtol=1e-14)
