"""The sentence that says what limits a run, on captures of two ranks. Times are microseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from paceline.analysis import trace

from tests.tracegen import Call, Operation, Range, Rows, write


def diagnosis(folder: Path, nccl_us: tuple[int, int], compute_us: int = 10, range_us: int = 90) -> str:
    """Return the diagnosis of an iteration of 100 us on two ranks.

    host    |-------------------- iteration ----------------------|100
            |- physics -|9
            |L|                        |- communication -|              10 + range_us
    GPU      |==== compute ====|        |======= nccl (of this rank) ======...
    """
    rows = Rows(marks=[(0, f"rank={pid - 1} world=2 local={pid - 1}", pid) for pid in (1, 2)])
    for pid, nccl in zip((1, 2), nccl_us, strict=True):
        rows.ranges += [Range(0, 100_000, "iteration", pid, domain=1), Range(0, 9_000, "physics", pid, domain=1)]
        rows.ranges += [Range(10_000, (10 + range_us) * 1000, "communication", pid, domain=1)]
        rows.calls += [Call(100, 200, 1, pid), Call(10_100, 10_200, 2, pid)]
        rows.operations += [
            Operation(300, 300 + compute_us * 1000, 1, pid),
            Operation(99_900 - nccl * 1000, 99_900, 2, pid, name="ncclDevKernel_AllReduce"),
        ]
    return trace.analyse(write(folder / "t.sqlite", rows)).diagnosis


@pytest.mark.parametrize(
    ("nccl_us", "compute_us", "expected"),
    [
        # Rank 1 waits in NCCL for rank 0, which has hardly any: not communication, but rank 0's host.
        (
            (2, 60),
            10,
            "host-bound: the GPU idles 97 % of communication on rank 0; 2 launches per iteration; "
            "rank 1 waits for it in NCCL for 58 % of the time",
        ),
        # Both are in NCCL for long: communication.
        (
            (50, 55),
            10,
            "communication-bound: NCCL that nothing hides takes 56 % of communication on rank 0; "
            "2 launches per iteration",
        ),
        # NCCL behind computing.
        ((3, 3), 99, "GPU-bound: the GPU works for 100 % of iteration on rank 0; physics causes 99 % of its work"),
    ],
    ids=["waiting", "communication", "hidden"],
)
def test_the_rank_that_others_wait_for_decides(
    tmp_path: Path, nccl_us: tuple[int, int], compute_us: int, expected: str
) -> None:
    assert diagnosis(tmp_path, nccl_us, compute_us) == expected


def test_nccl_that_outlasts_its_range_is_a_share_of_the_iteration(tmp_path: Path) -> None:
    """The host is in communication for 5 us, the kernel runs for 40: no share of the range above 100 %."""
    assert diagnosis(tmp_path, (40, 40), range_us=5).startswith(
        "communication-bound: NCCL that nothing hides takes 40 % of iteration on rank 0"
    )
