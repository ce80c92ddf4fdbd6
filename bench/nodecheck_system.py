"""Checks of a node that need no GPU: cores, memory, disks, assets, network, clock, load. Standard library only."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from paceline.bench.record import Case
from paceline.bench.rundir import RunDir

Row = tuple[str, str, str, "str | None"]

_GIB = 2**30
# What a rank of Isaac Lab takes on a host, roughly: 4 GiB with kit-less Newton, 8 GiB under Kit.
_RANK_BYTES = {"3": 4 * _GIB, "2": 8 * _GIB}
_RUN_BYTES = 1 * _GIB  # checkpoints, logs and records of a run
_RUN_FILES = 2000
_SHARED_BYTES = 64 * 2**20  # of NCCL per rank, when peers talk through shared memory
_ASSET_SERVER = ("omniverse-content-production.s3-us-west-2.amazonaws.com", 443)


def cores(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether the job may use as many cores as its ranks have threads."""
    have, need = len(os.sched_getaffinity(0)), case.local_world_size * case.threads_per_rank
    text = f"{have} cores for {case.local_world_size} rank(s) of {case.threads_per_rank} thread(s)"
    if have >= need:
        yield "cores", "ok", text, None
    else:
        fix = "ask for more: cpus_per_gpu in the cluster profile; scaling over ranks would show the lack of cores"
        yield "cores", "warning", text, fix


def memory(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether the node's free memory, and its shared memory, can hold the ranks."""
    available = _meminfo("MemAvailable")
    need = case.local_world_size * _RANK_BYTES.get(case.engine_version[:1], 4 * _GIB)
    if available is not None:
        state = "ok" if available >= need else "warning"
        text = f"{available / _GIB:.0f} GiB free, {case.local_world_size} rank(s) take about {need / _GIB:.0f}"
        yield "memory", state, text, None if state == "ok" else "ask for more: mem_per_gpu_gb in the cluster profile"
    if case.local_world_size > 1:
        free, floor = shutil.disk_usage("/dev/shm").free, case.local_world_size * _SHARED_BYTES
        state = "ok" if free >= floor else "warning"
        fix = (
            None
            if state == "ok"
            else "Docker: options: [--shm-size=8g] or --ipc=host; else ask the site for a larger /dev/shm"
        )
        yield "shared memory", state, f"{free / _GIB:.1f} GiB free in /dev/shm", fix


def disk(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether the run, cache and temporary folders can be written to, and have room and inodes."""
    places = {"run folder": run.path}
    for name, variable in (("kernel cache", "WARP_CACHE_PATH"), ("node folder", "PACELINE_NODE_DIR")):
        if os.environ.get(variable):
            places[name] = Path(os.environ[variable])
    places["temporary folder"] = Path(tempfile.gettempdir())
    for name, path in places.items():
        try:
            start = time.perf_counter()
            with tempfile.NamedTemporaryFile(dir=path, prefix=".paceline-") as stream:
                stream.write(b"x" * 65536)
                stream.flush()
                os.fsync(stream.fileno())
            took = time.perf_counter() - start
            usage = os.statvfs(path)
        except OSError as error:
            fix = (
                "make it writable, or choose another: results:, cache_dir: in the cluster profile, TMPDIR in its setup:"
            )
            yield "disk", "failure", f"{name} {path} cannot be written: {error.strerror}", fix
            continue
        free, files = usage.f_bavail * usage.f_frsize, usage.f_favail
        text = f"{name} {path}: {free / _GIB:.0f} GiB free"
        counted = usage.f_files > 0  # some file systems make inodes as they go and count none
        if counted and files < _RUN_FILES:
            yield (
                "disk",
                "warning",
                f"{text}, but only {files} files can be made",
                "remove files there, or ask for inodes",
            )
        elif free < _RUN_BYTES:
            yield "disk", "warning", text, "free some space: a run that cannot write its records does not count"
        elif took > 1:
            yield (
                "disk",
                "warning",
                f"{text}; a small file took {took:.1f} s",
                "a slow file system: choose a faster one",
            )
        else:
            yield "disk", "ok", text, None


def assets(run: RunDir, case: Case) -> Iterator[Row]:
    """Say where the simulator gets its robots from: a folder, or NVIDIA's server."""
    root = os.environ.get("ISAACSIM_ASSET_ROOT")
    if root:
        if Path(root, "Isaac").is_dir():
            yield "assets", "ok", root, None
        else:
            fix = (
                "asset_root in the cluster profile names a folder with Isaac/ in it, seen by the nodes or in the image"
            )
            yield "assets", "failure", f"{root} has no folder Isaac", fix
        return
    try:
        with socket.create_connection(_ASSET_SERVER, timeout=5):
            yield "assets", "ok", "NVIDIA's asset server answers", None
    except OSError as error:
        fix = "nodes without internet need asset_root in the cluster profile (docs/clusters.md)"
        yield "assets", "warning", f"NVIDIA's asset server cannot be reached ({error.strerror or error})", fix


def network(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether ranks can meet: a free port, and on several nodes the name of the first one."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        try:
            with socket.create_connection(server.getsockname(), timeout=5):
                pass
        except OSError as error:
            yield (
                "ports",
                "failure",
                f"loopback refuses connections ({error.strerror})",
                "ask the site: a firewall on the node",
            )
            return
    hosts = [socket.gethostname()]
    if case.num_nodes > 1:
        hosts.append(os.environ.get("SLURMD_NODENAME", hosts[0]))
    unknown = [host for host in dict.fromkeys(hosts) if not _has_address(host)]
    if unknown:
        state = "failure" if case.num_nodes > 1 else "warning"
        yield "ports", state, f"the node's own name {unknown[0]} has no address", "ask the site: torchrun looks it up"
        return
    yield "ports", "ok", f"loopback and {', '.join(dict.fromkeys(hosts))} answer", None


def clock(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether reading the clock is cheap, and whether the node's clock agrees with the file system's."""
    try:
        source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    except OSError:
        source = "unknown"
    each_ns = min(_reading_ns() for _ in range(5))  # the least: a busy core says nothing about the clock
    if source in ("hpet", "acpi_pm", "jiffies") or each_ns > 2000:
        fix = "ask the site: clock source tsc (or kvm-clock); each reading of a slow clock disturbs what is measured"
        yield "clock", "warning", f"{source}, {each_ns:.0f} ns per reading", fix
    else:
        yield "clock", "ok", f"{source}, {each_ns:.0f} ns per reading", None
    with tempfile.NamedTemporaryFile(dir=run.path, prefix=".paceline-") as stream:
        skew = os.fstat(stream.fileno()).st_mtime - time.time()
    if abs(skew) > 2:
        fix = (
            "ask the site: the node's clock is not kept by NTP; samples of several nodes cannot be laid over each other"
        )
        yield "clock", "warning", f"{abs(skew):.1f} s away from the file system of the run folder", fix


def _reading_ns(count: int = 2000) -> float:
    start = time.perf_counter()
    for _ in range(count):
        time.perf_counter()
    return (time.perf_counter() - start) / count * 1e9


def load(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether somebody else is busy on this node."""
    running, logical = os.getloadavg()[0], os.cpu_count() or 1
    if running > 0.5 * logical and running > 2:
        fix = "exclusive: true in the cluster profile keeps others away"
        yield "load", "warning", f"{running:.1f} processes run on {logical} cores already", fix
    else:
        yield "load", "ok", f"{running:.1f} processes run on {logical} cores", None


def _has_address(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _meminfo(name: str) -> int | None:
    """Return what the job may still take: of the node, or of its control group if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
    try:
        group = Path("/proc/self/cgroup").read_text().rsplit("::", 1)[1].strip()
        folder = Path("/sys/fs/cgroup" + group)
        limit = (folder / "memory.max").read_text().strip()
        if limit.isdigit():
            values.append(int(limit) - int((folder / "memory.current").read_text()))
    except (OSError, IndexError, ValueError):
        pass
    return min(values, default=None)
