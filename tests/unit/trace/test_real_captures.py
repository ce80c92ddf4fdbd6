"""Captures of real training on 1 and 4 x H200, one iteration each: what is known, and what is not left in them.

Known from the settings: ranks, iterations, steps of the roll-out (horizon), optimiser steps (minibatches x epochs), and
two physics steps, each one CUDA graph, in a step of the environment. Counted from the rows, and once more by a test:
launches of an iteration, on the rank that has fewest (on some ranks an environment is reset in more of the steps).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import nsys, trace, trace_report
from paceline.analysis.projection import engine, project

from tests.unit.trace.conftest import DATA

RANGES = {"iteration", "rollout", "env_step", "physics", "inference", "update", "minibatch", "communication"}


@dataclass(frozen=True)
class Known:
    """What is known about a capture, per rank."""

    ranks: int
    graph_trace: str
    optimizer_steps: int
    collectives: int
    launches: int
    """Of the rank that has fewest."""
    graph_kernels: int
    """Kernels and copies in a graph of physics; 0 where graphs are recorded whole."""


HORIZON = 32
CAPTURES = {
    "ant_rsl_rl_1_gpu_graph": Known(1, "graph", 20, 0, 11_907, 0),
    "ant_rsl_rl_1_gpu_node": Known(1, "node", 20, 0, 11_907, 88),
    "ant_rsl_rl_4_gpus_graph": Known(4, "graph", 20, 60, 11_352, 0),
    "ant_rsl_rl_4_gpus_node": Known(4, "node", 20, 60, 11_601, 88),
    "cartpole_rl_games_1_gpu_graph": Known(1, "graph", 64, 200, 17_856, 0),
    "cartpole_rl_games_1_gpu_node": Known(1, "node", 64, 200, 17_856, 78),
    "cartpole_rl_games_4_gpus_graph": Known(4, "graph", 64, 200, 18_056, 0),
    "cartpole_rl_games_4_gpus_node": Known(4, "node", 64, 200, 18_056, 78),
}
BY_NAME = pytest.mark.parametrize("name", CAPTURES)
ANALYSED: dict[str, trace.Trace] = {}


def analysed(name: str) -> trace.Trace:
    if name not in ANALYSED:
        ANALYSED[name] = trace.analyse(DATA / name, picture=False)
    return ANALYSED[name]


def rows_of(name: str) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["name"], row["rank"]): row for row in analysed(name).ranges}


@BY_NAME
def test_what_the_settings_say(name: str) -> None:
    known, rows = CAPTURES[name], rows_of(name)
    expected = RANGES if known.collectives else RANGES - {"communication"}
    assert rows.keys() == {(range_, rank) for range_ in expected for rank in range(known.ranks)}
    assert analysed(name).graph_trace == known.graph_trace
    for rank in range(known.ranks):
        instances = {range_: rows[range_, rank]["instances"] for range_ in expected}
        # rl_games asks the policy once more, for the value of the last observation.
        assert instances.pop("inference") == HORIZON + ("rl_games" in name)
        assert instances.pop("communication", 0) == known.collectives
        assert instances == {
            "iteration": 1,
            "rollout": 1,
            "env_step": HORIZON,
            "physics": 2 * HORIZON,
            "update": 1,
            "minibatch": known.optimizer_steps,
        }
        # On one rank rl_games averages with nobody: ranges without launches.
        launches = rows["communication", rank]["launches"] if known.collectives else 0
        assert launches == (known.collectives if known.ranks > 1 else 0)
        assert rows["rollout", rank]["nccl_s"] == 0
        assert (rows["update", rank]["nccl_s"] > 0) == (known.ranks > 1)


@BY_NAME
def test_launches(name: str) -> None:
    known, rows = CAPTURES[name], rows_of(name)
    assert min(rows["iteration", rank]["launches"] for rank in range(known.ranks)) == known.launches
    for rank in range(known.ranks):
        row = rows["iteration", rank]
        assert 2 * HORIZON - row["graph_launches"] in (0, 1)  # nsys missed one of Ant's on rank 0
        assert rows["rollout", rank]["launches"] + rows["update", rank]["launches"] == row["launches"]
        inside_graphs = row["kernels"] - (row["launches"] - row["graph_launches"])
        assert inside_graphs == known.graph_kernels * 2 * HORIZON


def test_more_gpus_launch_as_much_each() -> None:
    """What keeps Ant from scaling: a quarter of the environments on each of four GPUs takes as many launches."""
    one, four = (CAPTURES[f"ant_rsl_rl_{gpus}_node"].launches for gpus in ("1_gpu", "4_gpus"))
    assert abs(four / one - 1) < 0.03
    rows, alone = rows_of("ant_rsl_rl_4_gpus_node"), rows_of("ant_rsl_rl_1_gpu_node")
    for rank in range(4):
        assert rows["physics", rank]["gpu_busy_s"] < 0.6 * alone["physics", 0]["gpu_busy_s"]
        assert rows["env_step", rank]["wall_s"] > 0.6 * alone["env_step", 0]["wall_s"]


@pytest.mark.parametrize(
    ("name", "least", "most"), [("ant_rsl_rl_1_gpu", 1.7, 1.8), ("cartpole_rl_games_1_gpu", 1.15, 1.25)]
)
def test_a_graph_recorded_whole_is_an_upper_bound(name: str, least: float, most: float) -> None:
    """From its first to its last kernel, gaps included: physics seems to keep the GPU busy for up to 1.8 x as long."""
    whole, kernels = (rows_of(f"{name}_{mode}")["physics", 0]["gpu_busy_s"] for mode in ("graph", "node"))
    assert least < whole / kernels < most


@BY_NAME
def test_launches_are_the_rows_of_the_capture(name: str) -> None:
    """The same number without ranges, threads and projection: launching calls between an iteration's ends."""
    import pyarrow.parquet

    def table(which: str, *columns: str) -> dict[str, Any]:
        read = pyarrow.parquet.read_table(DATA / name / f"{which}.parquet", columns=list(columns))
        return {column: np.array(read[column].to_pylist(), dtype=object) for column in columns}

    strings = table("StringIds", "id", "value")
    text = dict(zip(strings["id"], strings["value"], strict=True))
    calls = table("CUPTI_ACTIVITY_KIND_RUNTIME", "start", "globalTid", "nameId", "correlationId")
    events = table("NVTX_EVENTS", "start", "end", "globalTid", "textId")
    kernels = table("CUPTI_ACTIVITY_KIND_KERNEL", "globalPid", "correlationId")
    launched = set(zip(kernels["globalPid"] // 2**24, kernels["correlationId"], strict=True))
    if CAPTURES[name].graph_trace == "graph":
        graphs = table("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "globalPid", "correlationId")
        launched |= set(zip(graphs["globalPid"] // 2**24, graphs["correlationId"], strict=True))
    process = calls["globalTid"] // 2**24
    for row in (row for row in analysed(name).ranges if row["name"] == "iteration"):
        count = 0
        for start, end, thread, label in zip(*events.values(), strict=True):
            if text.get(label) != "iteration" or thread // 2**24 % 2**24 != row["process"]:
                continue
            inside = (calls["start"] >= start) & (calls["start"] < end) & (process == thread // 2**24)
            count += len(launched & set(zip(process[inside], calls["correlationId"][inside], strict=True)))
        assert count == row["launches"]


@pytest.mark.parametrize("name", [name for name, known in CAPTURES.items() if known.ranks > 1])
def test_ranks_meet_in_nccl(name: str) -> None:
    """All ranks take equally long for an iteration; who is early waits in NCCL. The diagnosis is about who is not."""
    found, rows = analysed(name), rows_of(name)
    walls = [rows["iteration", rank]["wall_s"] for rank in range(4)]
    assert max(walls) < 1.005 * min(walls)
    waited = [rows["iteration", rank]["nccl_s"] for rank in range(4)]
    last, first = int(np.argmin(waited)), int(np.argmax(waited))
    assert found.diagnosis.startswith("host-bound: the GPU idles ")
    assert f" on rank {last};" in found.diagnosis and f"; rank {first} waits for it in NCCL" in found.diagnosis
    assert 1.8 * waited[last] < waited[first]
    # The first minibatch of an update waits for the slowest roll-out: that is no start-up of the capture.
    assert not [line for line in found.warnings if "steady state" in line]


def test_nsys_says_the_same_of_four_processes() -> None:
    """Hulls and instances as in NVIDIA's own report, all processes together, to the nanosecond; no helper threads."""
    name = "ant_rsl_rl_4_gpus_node"
    with open(DATA / f"{name}.nvtx_gpu_proj_sum.csv", newline="", encoding="utf-8") as stream:
        expected = {row["Range"]: row for row in csv.DictReader(stream)}
    capture = nsys.load(DATA / name, fast=False)
    projection = project(capture, engine(False))
    hull = projection.per_range["last"] - projection.per_range["first"]
    worked = projection.per_range["operations"] > 0
    label = np.array([label for _, label, _ in projection.groups])[projection.group]
    names = {":".join(filter(None, capture.labels[one])): one for one in np.unique(label[worked]).tolist()}
    assert names.keys() == expected.keys()
    for text, one in names.items():
        row, mine = expected[text], (label == one) & worked
        assert int(mine.sum()) == int(row["Range Instances"]), text
        assert int(hull[mine].sum()) == int(row["Total Proj Time (ns)"]), text
        assert (int(hull[mine].min()), int(hull[mine].max())) == (int(row["Proj Min (ns)"]), int(row["Proj Max (ns)"]))
        assert np.median(hull[mine]) == float(row["Proj Med (ns)"]), text


@BY_NAME
def test_nothing_of_the_machine_is_left(name: str) -> None:
    """Texts are names of kernels, calls and ranges, and known facts; no path, address, host or variable."""
    import pyarrow.parquet

    tables = {path.stem: pyarrow.parquet.read_table(path) for path in (DATA / name).glob("*.parquet")}
    assert not {"ProcessStreams", "ThreadNames", "TARGET_INFO_SYSTEM_ENV", "ANALYSIS_FILE"} & tables.keys()
    texts: set[str] = set()
    for table in tables.values():
        assert not table.schema.metadata
        for column in table.columns:
            texts |= {value for value in column.unique().to_pylist() if isinstance(value, str)}
    assert len(texts) > 100
    for pattern in (r"(^|[\s=\"'(])/\w+/", r"\d+\.\d+\.\d+\.\d+\.?$", r"@", r"GPU-[0-9a-f]", r"\w+\.(com|org|local)\b"):
        assert not [text for text in texts if re.search(pattern, text) and "2024.2" not in text], pattern
    assert {re.sub(r"\d", "N", t) for t in texts if t.startswith("rank=")} == {
        "rank=N world=N local=N gpu_uuid=[scrubbed]"
    }


def test_the_page_of_one_against_four_is_small_and_keeps_to_one_rank(tmp_path: Path) -> None:
    """40,000 kernels and 50,000 calls in the pictures; numbers beside each other are of one rank."""
    sides = [trace.analyse(DATA / f"ant_rsl_rl_{gpus}_node") for gpus in ("1_gpu", "4_gpus")]
    page = trace_report.write(sides, tmp_path / "report")
    assert page.stat().st_size < 1_000_000
    rows = {row["name"]: row for row in trace.compare(*sides)}
    last = min((row for row in sides[1].ranges if row["name"] == "iteration"), key=lambda row: float(row["nccl_s"]))
    for row in sides[1].ranges:
        if row["rank"] == last["rank"]:
            assert rows[row["name"]]["wall_s_b"] == row["wall_s"] / row["instances"]


def test_captures_are_small() -> None:
    sizes = {name: sum(path.stat().st_size for path in (DATA / name).iterdir()) for name in CAPTURES}
    assert max(sizes.values()) < 2_000_000 and sum(sizes.values()) < 6_000_000


def test_every_capture_is_known() -> None:
    assert {path.name for path in Path(DATA).iterdir() if path.is_dir()} == set(CAPTURES)
