"""What happens inside CUDA graphs: replayed kernels by the range that was open when they were captured.

    capture   range  |-- collide --||-- solve --|       NVTX inside a captured region appears once, when it is captured
              nodes     n1  n2        n3
    replay    kernels   n1 n2 n3  n1 n2 n3 ...          node-level traces name the node of every kernel

Only node-level traces have this. A node of an instantiated graph is a clone: its original is the one that was captured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paceline.analysis.capture import Capture
from paceline.analysis.projection import Projection


def by_creation(capture: Capture, projection: Projection, warnings: list[str]) -> list[dict[str, Any]]:
    """Return kernel counts and time by (process, range open at the creation of the node), the most time first.

    Keys: ``range`` (None if no range was open), ``process``, ``rank``, ``nodes``, ``kernels``, ``sum_s``. Kernels
    whose node was created before the capture began are named in a warning.
    """
    operations, nodes = capture.operations, capture.graph_nodes
    assert nodes is not None and operations.graph_node is not None
    process_of_thread = [thread.process for thread in capture.threads]
    created: dict[tuple[int, int], tuple[int, int, int]] = {}
    for time, thread, node, original in zip(
        nodes.time.tolist(), nodes.thread.tolist(), nodes.node.tolist(), nodes.original.tolist(), strict=True
    ):
        if thread >= 0:
            created[process_of_thread[thread], node] = (time, thread, original)

    rows = np.flatnonzero(operations.graph_node != 0)
    key = np.stack([operations.process[rows].astype(np.int64), operations.graph_node[rows]])
    distinct, inverse = np.unique(key, axis=1, return_inverse=True)
    inverse = inverse.ravel()
    count = np.bincount(inverse)
    total = np.zeros(len(count), np.int64)
    np.add.at(total, inverse, (operations.end - operations.start)[rows])

    result: dict[tuple[int, str | None], list[int]] = {}
    unknown = 0
    for (process, node), kernels, length in zip(distinct.T.tolist(), count.tolist(), total.tolist(), strict=True):
        origin = _origin(created, process, node)
        if origin is None:
            unknown += kernels
            continue
        entry = result.setdefault((process, _open_label(capture, origin)), [0, 0, 0])
        entry[0] += 1
        entry[1] += kernels
        entry[2] += length
    if unknown:
        warnings.append(
            f"{unknown:,} kernels belong to CUDA graphs that were built before the capture began: no ranges inside them"
        )
    return [
        {
            "range": label,
            "process": capture.processes[process].pid,
            "rank": capture.processes[process].rank,
            "nodes": nodes_,
            "kernels": kernels,
            "sum_s": length / 1e9,
        }
        for (process, label), (nodes_, kernels, length) in sorted(result.items(), key=lambda item: -item[1][2])
    ]


def _origin(created: dict[tuple[int, int], tuple[int, int, int]], process: int, node: int) -> tuple[int, int] | None:
    """Return (time, thread) at which the original of a node was created, None if the capture does not show it."""
    seen = set()
    while node not in seen:
        seen.add(node)
        if (process, node) not in created:
            return None
        time, thread, original = created[process, node]
        if not original:
            return time, thread
        node = original
    return None


def _open_label(capture: Capture, origin: tuple[int, int]) -> str | None:
    ranges, (time, thread) = capture.ranges, origin
    rows = np.flatnonzero((ranges.start <= time) & (ranges.end > time) & (ranges.thread == thread))
    if not len(rows):
        return None
    return capture.labels[int(ranges.label[rows[np.argmax(ranges.start[rows])]])][1]
