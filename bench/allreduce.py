"""All ranks add up one tensor, as the training will do: do they find each other, and how fast? Scope: job.

    python -m paceline.bench.allreduce TORCHRUN-OPTION...      on every node; starts the ranks by torchrun

NCCL on GPUs, gloo on CPU. Rank 0 writes ``doctor-allreduce.json`` to the run folder with the bus bandwidth as NCCL's
own tests define it: bytes / time * 2 (n - 1) / n. A hang ends after a minute, before it can cost an hour.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from typing import Any

from paceline.bench.assignment import load_run
from paceline.bench.errors import PacelineError
from paceline.bench.hardware import node_name
from paceline.bench.nodecheck import SCHEMA
from paceline.bench.rundir import write_json

BYTES = {"nccl": 64 * 2**20, "gloo": 4 * 2**20}
"""Size of the tensor: large enough for bandwidth, and about what a policy's gradients take at most."""
_ROUNDS = 5
_PATIENCE = datetime.timedelta(seconds=60)


def measure(backend: str, device: Any) -> tuple[float, bool]:
    """Return seconds per all-reduce (median of the rounds, this rank's clock) and whether the sum was right."""
    import torch
    import torch.distributed as dist

    size = dist.get_world_size()
    tensor = torch.ones(BYTES[backend] // 4, dtype=torch.float32, device=device)
    dist.all_reduce(tensor)
    right = bool((tensor == size).all())
    times = []
    for _ in range(_ROUNDS):
        _complete(device)
        start = time.perf_counter()
        dist.all_reduce(tensor)
        _complete(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], right


def _complete(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str]) -> int:
    """Start torchrun, or be one of its ranks: join the group, measure, and let rank 0 write and print the finding.

    Returns 1 if the sum is wrong.
    """
    if arguments:
        command = [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "paceline.bench.allreduce"]
        os.execv(sys.executable, command)
    run, case = load_run()
    import torch
    import torch.distributed as dist

    backend = "nccl" if case.device == "cuda" else "gloo"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    start = time.perf_counter()
    dist.init_process_group(backend, timeout=_PATIENCE)
    seconds, right = measure(backend, device)
    set_up_s = time.perf_counter() - start
    size = dist.get_world_size()
    if dist.get_rank() == 0:
        bandwidth = BYTES[backend] / seconds * 2 * (size - 1) / size / 1e9
        where = f"{size} rank{'s' * (size > 1)} on {case.num_nodes} node{'s' * (case.num_nodes > 1)}"
        text = f"{backend}, {where}: {BYTES[backend] / 2**20:.0f} MiB in {seconds * 1e3:.1f} ms"
        finding = {
            "check": "all-reduce",
            "state": "ok" if right else "failure",
            "text": f"{text}, bus bandwidth {bandwidth:.1f} GB/s" if right else f"{text}, and the sum is wrong",
            "fix": None if right else "the network or a GPU is broken: exclude this node and tell the site",
            "node": node_name(),
            "bus_bandwidth_gb_per_s": round(bandwidth, 3),
            "seconds": seconds,
            "set_up_s": round(set_up_s, 3),
        }
        write_json(run.doctor_json("allreduce"), {"schema": SCHEMA, "node": node_name(), "findings": [finding]})
        print(f"paceline: all-reduce: {finding['text']}", flush=True)
    dist.destroy_process_group()
    return 0 if right else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
