"""Two processes with known NVTX ranges: rank r runs ``iterations`` iterations, each with a roll-out and an update.

Prints one JSON line per process: what it measured itself. Usage: nvtx_ranges.py ITERATIONS
"""

import json
import multiprocessing
import sys
import time

import nvtx


def work(rank: int, iterations: int, results: "multiprocessing.SimpleQueue[str]") -> None:
    nvtx.mark(f"rank={rank} world=2 local={rank}", domain="paceline")
    sums = {"iteration": 0.0, "rollout": 0.0, "update": 0.0}
    for iteration in range(iterations):
        begin = time.perf_counter()
        nvtx.push_range("iteration", domain="paceline", payload=iteration)
        start = time.perf_counter()
        with nvtx.annotate("rollout", domain="paceline"):
            time.sleep(0.004 + 0.004 * rank)
        middle = time.perf_counter()
        with nvtx.annotate("update", domain="paceline"):
            handle = nvtx.start_range("overlapping", domain="paceline")
            time.sleep(0.002)
            nvtx.end_range(handle)
        end = time.perf_counter()
        nvtx.pop_range(domain="paceline")
        sums["iteration"] += time.perf_counter() - begin
        sums["rollout"] += middle - start
        sums["update"] += end - middle
    nvtx.push_range("never closed", domain="paceline")
    results.put(json.dumps({"rank": rank, **sums}))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=work, args=(rank, int(sys.argv[1]), queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        print(queue.get(), flush=True)
    for worker in workers:
        worker.join()
