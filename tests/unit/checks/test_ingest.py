"""Files that real runs of Isaac Lab 3.0.0 left (CPU, 64 environments, 60 iterations), and texts of older versions."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis.attribution import NOT_APPLICABLE, pop_tree
from paceline.analysis.checks import check_table
from paceline.analysis.ingest import read_any
from paceline.analysis.tfevents import _masked_crc, read_scalars
from paceline.bench.errors import RecordError

DATA = Path(__file__).parents[2] / "data" / "foreign"


def ids(table: Any) -> Any:
    return {finding.id for finding in check_table(table)}


def test_console_and_events_of_rl_games_agree() -> None:
    log = read_any(DATA / "rl_games_1.6.5.log")
    events = read_any(DATA / "events.out.tfevents.1.rl_games_1.6.5")
    assert len(log) == len(events) == 60
    for name in ("fps_step", "fps_step_inference", "total_fps"):
        assert np.abs(log.number(name) - events.number(name)).max() <= 0.51, "the console rounds to whole frames/s"
    assert set(log.number("global_batch")) == set(events.number("global_batch")) == {64 * 32}
    assert log.number("frames_total")[:3].tolist() == [0, 2048, 4096], "continuous actions: counted before the epoch"
    assert log.scope == events.scope == "rank0" and set(log.text("library")) == {"rl_games"}
    total = events.number("collection_time_s") + events.number("update_time_s")
    assert np.allclose(2048 / total, events.number("total_fps"), rtol=1e-3)


def test_console_and_events_of_rsl_rl_agree() -> None:
    log = read_any(DATA / "rsl_rl_5.5.1.log")
    events = read_any(DATA / "events.out.tfevents.1.rsl_rl_5.5.1")
    assert len(log) == len(events) == 60
    assert log.number("total_fps").tolist() == events.number("total_fps").tolist()
    assert np.abs(log.number("update_time_s") - events.number("update_time_s")).max() <= 6e-4
    assert set(log.number("global_batch")) == set(events.number("global_batch")) == {64 * 16}
    assert log.number("iteration").tolist() == list(range(60)) == events.number("iteration").tolist()


@pytest.mark.parametrize("name", ["rsl_rl_5.5.1.log", "events.out.tfevents.1.rsl_rl_5.5.1", "rl_games_1.6.5.log"])
def test_warm_up_of_real_runs_is_found(name: str) -> None:
    table = read_any(DATA / name)
    found = [finding for finding in check_table(table) if finding.id == "F-WARMUP"]
    assert len(found) == 1 and "by MSER-5" in found[0].message
    cut = int(found[0].message.split()[2])
    assert 1 <= cut <= len(table) // 2


OLD_RSL_RL = """
                       \x1b[1m Learning iteration {0}/500 \x1b[0m

                       Computation: {1} steps/s (collection: 1.000s, learning 0.250s)
               Value function loss: 0.0133
--------------------------------------------------------------------------------
                   Total timesteps: {2}
                    Iteration time: 1.25s
"""


def test_console_of_rsl_rl_2_and_3(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("".join(OLD_RSL_RL.format(i, 78643 + i, 98304 * (i + 1)) for i in range(40)))
    table = read_any(path)
    assert len(table) == 40
    assert table.number("total_fps")[:2].tolist() == [78643, 78644]
    assert set(table.number("iteration_time_s")) == {1.25} and set(table.number("collection_time_s")) == {1.0}
    assert table.number("frames_total")[:2].tolist() == [98304, 196608]
    assert set(table.number("global_batch")) == {98304} and set(table.number("collection_fps")) == {98304}


def test_dropped_contacts_in_a_log_make_its_rates_unusable(tmp_path: Path) -> None:
    text = (DATA / "rl_games_1.6.5.log").read_text()
    lines = text.splitlines(keepends=True)
    lines.insert(
        30,
        "[Error] [omni.physx.plugin] PhysX error: Patch buffer overflow detected, "
        "please increase its size to at least 163840\n",
    )
    path = tmp_path / "train.log"
    path.write_text("".join(lines))
    found = [f for f in check_table(read_any(path)) if f.id == "F-INVALID"]
    assert len(found) == 1 and found[0].severity == "error" and "163840" in found[0].message
    assert int(found[0].rows[0]) in range(2, 60)
    assert "F-INVALID" not in ids(read_any(DATA / "rl_games_1.6.5.log"))


def test_training_bundle() -> None:
    table = read_any(DATA / "bundle_training_rsl_rl.json")
    data = json.loads((DATA / "bundle_training_rsl_rl.json").read_text())
    runtime = data["runtime"]
    first = runtime["startup_time_s"]["first_step"]
    assert table.number("total_fps")[0] == pytest.approx(59 * 1024 / (runtime["total_wall_time_s"] - first))
    assert table.number("aggregate_fps")[0] == pytest.approx(60 * 1024 / runtime["total_wall_time_s"])
    assert table.text("isaaclab_version") == ("3.0.0",) and table.text("physics") == ("newton_mjwarp",)
    assert ids(table) == {"F-SYNC", "F-MEAN", "F-N1"}, (
        "measured with --measure_sync_step, and total_fps is a mean of rates"
    )
    mean = next(f for f in check_table(table) if f.id == "F-MEAN")
    assert "2,233 is a mean of per-iteration rates" in mean.message and "1,218" in mean.message


def test_other_bundles() -> None:
    table = read_any(DATA / "bundle_training_rl_games.json")
    assert ids(table) == {"F-MEAN", "F-N1", "F-WARMUP"}
    runtime = read_any(DATA / "bundle_runtime.json")
    assert not runtime.has("total_fps") and runtime.number("collection_fps")[0] == pytest.approx(693.57, abs=0.01)
    assert ids(runtime) == {"F-N1"}
    with pytest.raises(RecordError, match="--benchmark_formatter schema"):
        read_any(DATA / "bundle_omniperf_formatter.json")


def older_schema(version: Any) -> Any:
    """Return a bundle as that version defines it; 1.4 added devices, the success curve and warmup_steps."""
    data = json.loads((DATA / "bundle_training_rsl_rl.json").read_text())
    data["schema_version"] = version
    data["versions"].pop("usd_exchange")
    data["resources"].pop("devices")
    data["learning"].pop("success_rate", None)
    data["runtime"]["environment_step_timing"].pop("warmup_steps")
    return data


def test_bundles_of_several_world_sizes_make_a_curve(tmp_path: Path) -> None:
    for n in (1, 2, 4):
        data = older_schema(("1.2", "1.3", "1.4")[n // 2])
        data["run"]["num_envs"] = 64 * n
        data["runtime"]["steps_per_iteration"] = 1024 * n
        data["runtime"]["environment_step_timing"] = None
        data["extra"] = {
            "world_size": n,
            "local_world_size": n,
            "num_nodes": 1,
            "measurement_scope": "rank0_process",
            "num_envs_per_rank": 64,
        }
        (tmp_path / f"benchmark_training_{n}.json").write_text(json.dumps(data))
    table = read_any(tmp_path, "strong")
    assert table.world_sizes().tolist() == [1, 2, 4]
    found = {f.id: f for f in check_table(table)}
    assert "this is weak scaling" in found["F-MODE"].message
    assert found["F-RANK0"].rows == (2, 3)
    assert "F-MODE" not in ids(read_any(tmp_path, "weak"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema_version="2.0"), "bundle schema '2.0'; 1.2, 1.3, 1.4 can be read"),
        (lambda d: d.pop("runtime"), "runtime is missing"),
        (lambda d: d["runtime"].pop("total_wall_time_s"), "not a valid bundle"),
        (lambda d: d["runtime"].update(total_wall_time_s=0), "must be positive"),
        (lambda d: d["run"].pop("task"), "'task'"),
    ],
)
def test_bad_bundles(tmp_path: Path, change: Any, says: str) -> None:
    data = older_schema("1.4")
    change(data)
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=says):
        read_any(path)


def test_times_of_rank_0_have_no_load_balance() -> None:
    table = read_any(DATA / "events.out.tfevents.1.rl_games_1.6.5")
    useful = np.full((4, len(table)), np.nan)
    useful[0] = table.number("collection_time_s")
    assert table.scope == "rank0"
    assert pop_tree(useful, float(table.number("iteration_time_s").sum()), 1.0) is None
    assert NOT_APPLICABLE == "n/a (rank-0 timings)"


def record(payload: Any) -> Any:
    head = struct.pack("<Q", len(payload))
    return head + struct.pack("<I", _masked_crc(head)) + payload + struct.pack("<I", _masked_crc(payload))


def tensor_event(step: Any, value: Any) -> Any:
    """An event as newer writers make it: the scalar inside a tensor."""
    tensor = b"\x08\x01\x22\x04" + struct.pack("<f", value)
    summary = b"\x0a\x0ePerf/total_fps\x42" + bytes([len(tensor)]) + tensor
    body = b"\x0a" + bytes([len(summary)]) + summary
    return b"\x09" + struct.pack("<d", 1.0) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(body)]) + body


def test_events_in_tensors_and_events_cut_short(tmp_path: Path) -> None:
    whole = record(tensor_event(1, 100.0)) + record(tensor_event(2, 200.0))
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(whole)
    assert read_scalars(path)["Perf/total_fps"].values == [100.0, 200.0]
    for cut in (1, 5, 20):
        path.write_bytes(whole[:-cut])
        assert read_scalars(path)["Perf/total_fps"].values == [100.0], "a killed run keeps what it had written"


def test_the_checksum_is_crc32c() -> None:
    # The check value of CRC-32C for "123456789" is E3069283; masked: rotated right by 15, plus a282ead8.
    crc = 0xE3069283
    assert _masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_damaged_and_foreign_events(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    whole = bytearray(record(tensor_event(1, 100.0)) * 3)
    whole[70] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(RecordError, match="damaged"):
        read_scalars(path)
    path.write_bytes(b"hello, this is no event file at all")
    with pytest.raises(RecordError, match="not a TensorBoard event file"):
        read_scalars(path)
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="empty"):
        read_any(path)
    path.write_bytes(record(b"\x09" + struct.pack("<d", 1.0)))
    with pytest.raises(RecordError, match="no throughput"):
        read_any(path)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no study \(study.yaml\), benchmark bundle"):
        read_any(tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        read_any(tmp_path / "none.csv")
