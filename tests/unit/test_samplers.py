"""The sampler: which GPUs are the job's (on a made-up NVML), and the real host counters of this machine."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paceline.bench.record import SAMPLES_SCHEMA, Case
from paceline.bench.rundir import RunDir, StudyDir, write_json
from paceline.profiling import nvml
from paceline.profiling.samplers import HostSampler, RankSampler, Schedule, gpu_samples, worker_rank
from paceline.profiling.threads import RankThreads, group_name, largest, read_threads

CASE = Case(
    kind="strong",
    task="Isaac-Cartpole-Direct",
    trainer="rsl_rl",
    world_size=1,
    num_envs=64,
    horizon=16,
    num_minibatches=4,
    num_epochs=5,
    iterations=1,
    warmup_iterations=0,
    repeat=0,
    seed=42,
    device="cpu",
)


class NvmlError(Exception):
    pass


class MadeUpNvml:
    """The functions of pynvml that are used, on a node with three GPUs; GPU 2 has two MIG instances.

    Handles are ("gpu", index) and ("mig", number). GPU 1 is an older one that cannot tell its energy.
    """

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = "sm", "mem", "gpu"
    UUIDS = ("GPU-aaaa-0", "GPU-bbbb-1", "GPU-cccc-2")
    MIGS = ("MIG-dddd-0", "MIG-eeee-1")

    def __init__(self) -> None:
        self.pids: dict[Any, list[int]] = {}
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return ("gpu", index)

    def nvmlDeviceGetUUID(self, handle: Any) -> Any:
        kind, number = handle
        return self.MIGS[number] if kind == "mig" else self.UUIDS[number].encode()  # bytes in older bindings

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        if handle != ("gpu", 2):
            raise NvmlError("not supported")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, number: int) -> Any:
        if number >= len(self.MIGS):
            raise NvmlError("not found")
        return ("mig", number)

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return f"NVIDIA {handle[0]}"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.65.06"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=80 << 30, used=handle[1] << 30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        return 700_000

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: str) -> int:
        return 1980

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=50 + handle[1], memory=1)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return 350_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        if handle == ("gpu", 1):
            raise NvmlError("not supported")
        return 123_456

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: str) -> int:
        return 60

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: str) -> int:
        return {"sm": 1755, "mem": 2619}[clock]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return 0x1 | 0x4 | 0x40  # idle, power cap, hot

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.pids.get(handle, [])]


@pytest.fixture
def made_up() -> MadeUpNvml:
    return MadeUpNvml()


@pytest.mark.parametrize(
    ("setting", "count", "expected"),
    [
        (None, 8, ["GPU-aaaa-0", "GPU-bbbb-1", "GPU-cccc-2"]),
        (None, 2, ["GPU-aaaa-0", "GPU-bbbb-1"]),  # two ranks on a node with more GPUs use the first two
        ("1", 1, ["GPU-bbbb-1"]),
        ("2,0", 2, ["GPU-cccc-2", "GPU-aaaa-0"]),
        (" 2 , 0 ", 2, ["GPU-cccc-2", "GPU-aaaa-0"]),
        ("0,9,1", 3, ["GPU-aaaa-0"]),  # CUDA stops at what it does not know
        ("", 1, []),
        ("-1", 1, []),
        ("NoDevFiles", 1, []),  # what Slurm sets for jobs without GPUs
        ("GPU-bbbb-1", 1, ["GPU-bbbb-1"]),
        ("GPU-cc,GPU-aaaa-0", 2, ["GPU-cccc-2", "GPU-aaaa-0"]),  # the beginning of a UUID will do
        ("MIG-eeee-1", 1, ["MIG-eeee-1"]),
        ("MIG-dddd-0,MIG-eeee-1", 2, ["MIG-dddd-0", "MIG-eeee-1"]),
        ("MIG-GPU-cccc-2/1/0", 1, ["MIG-dddd-0"]),
        ("MIG-GPU-zzzz/1/0", 1, []),
    ],
)
def test_gpus_of_the_job(made_up: MadeUpNvml, setting: str | None, count: int, expected: list[str]) -> None:
    assert [gpu.uuid for gpu in nvml.Nvml(made_up).of_job(setting, count)] == expected


def test_facts_and_counters(made_up: MadeUpNvml) -> None:
    device = nvml.Nvml(made_up)
    first, second, third = device.of_job(None, 3)
    assert device.facts(first) == {
        "index": 0,
        "uuid": "GPU-aaaa-0",
        "name": "NVIDIA gpu",
        "memory_total_bytes": 80 << 30,
        "power_limit_w": 700.0,
        "driver_version": "580.65.06",
        "sm_clock_max_mhz": 1980,
    }
    assert device.sample(third) == {
        "uuid": "GPU-cccc-2",
        "util_pct": 52,
        "memory_used_bytes": 2 << 30,
        "temperature_c": 60,
        "power_w": 350.5,
        "energy_j": 123.456,
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "throttle": ["sw_power_cap", "hw_thermal_slowdown"],
    }
    assert device.sample(second)["energy_j"] is None  # not supported: not known, never 0
    device.close()
    assert made_up.open == 0


def test_an_instance_does_not_claim_the_whole_gpu(made_up: MadeUpNvml) -> None:
    device = nvml.Nvml(made_up)
    (instance,) = device.of_job("MIG-eeee-1", 1)
    sample = device.sample(instance)
    assert sample["memory_used_bytes"] == 1 << 30
    assert (sample["util_pct"], sample["power_w"], sample["energy_j"]) == (None, None, None)


def test_foreign_processes(made_up: MadeUpNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeper) as ours:
        try:
            device, ranks = nvml.Nvml(made_up), RankSampler(os.getpid())
            made_up.pids[("gpu", 0)] = [ours.pid, 1, 2**22 + 1]  # ours, somebody's (init), one that has ended
            gpus = device.of_job("0,1", 2)
            monkeypatch.setattr(nvml, "in_host_namespace", lambda: True)
            first, second = gpu_samples(device, gpus, ranks)
            assert (first["processes"], first["foreign_processes"]) == (3, 1)
            assert (second["processes"], second["foreign_processes"]) == (0, 0)
            # In a process namespace of its own nobody can tell whose the numbers are.
            monkeypatch.setattr(nvml, "in_host_namespace", lambda: False)
            first, _ = gpu_samples(device, gpus, ranks)
            assert (first["processes"], first["foreign_processes"]) == (3, None)
        finally:
            ours.kill()


def test_a_machine_without_driver_has_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(MadeUpNvml):
        def nvmlInit(self) -> None:
            raise NvmlError("driver not loaded")

    monkeypatch.setitem(sys.modules, "pynvml", NoDriver())
    assert nvml.open_nvml() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.open_nvml() is None


def test_schedule_keeps_its_rate() -> None:
    schedule = Schedule(1.0, now=100.0)
    assert schedule.wait_s(100.0) == 1.0
    assert schedule.wait_s(101.25) == 0.75  # a late sample does not delay the next
    assert schedule.wait_s(105.5) == 0.5  # those that were missed are not made up for
    assert schedule.wait_s(106.0) == 1.0


def test_thread_groups() -> None:
    names = {10: "python", 11: "python", 12: "pt_autograd_0", 13: "pt_autograd_12", 14: "cuda-EvtHandlr", 15: "7"}
    assert [group_name(name, tid, 10, "python") for tid, name in names.items()] == [
        "main",
        "unnamed",
        "pt_autograd",
        "pt_autograd",
        "cuda-EvtHandlr",
        "unnamed",
    ]
    assert largest({f"g{number}": float(number) for number in range(20)})["other"] == sum(range(8))
    assert largest({"main": 99.97}) == {"main": 100.0}


def test_this_process_as_a_rank() -> None:
    threads = RankThreads(3, os.getpid())
    assert threads.look() is None  # nothing to compare with yet
    start, until = time.monotonic(), time.process_time() + 0.3
    while time.process_time() < until:
        pass
    used = threads.look()
    assert used is not None
    assert used.cpu_pct >= 100 * 0.2 / (time.monotonic() - start)
    assert used.thread_groups["main"] > 0
    assert used.threads == len(read_threads(os.getpid()))
    assert used.rss_bytes is not None and used.rss_bytes > 1e6
    assert RankThreads(0, 2**22 + 1).look() is None


def test_host_counters() -> None:
    host = HostSampler()
    time.sleep(0.2)
    sample = host.sample()
    facts = host.facts()
    assert len(sample["cpu_pct"]) == facts["logical_cores"] == os.cpu_count()
    assert all(0 <= core <= 100 for core in sample["cpu_pct"])
    assert 0 < sample["ram_used_bytes"] < facts["ram_total_bytes"]
    assert sample["load_1m"] >= 0


def test_host_counters_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    host = HostSampler()
    assert host.sample()["cpu_pct"] is None and host.sample()["ram_used_bytes"] is None
    assert host.facts()["ram_total_bytes"] is None
    assert host.sample()["load_1m"] >= 0


def test_a_rank_is_told_by_command_and_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "paceline.bench.worker"]
    with subprocess.Popen(command, env={**os.environ, "RANK": "5"}) as rank:
        try:
            deadline = time.monotonic() + 10
            while worker_rank(rank.pid) is None and time.monotonic() < deadline:
                time.sleep(0.01)  # until the new program is in place
            assert worker_rank(rank.pid) == 5
        finally:
            rank.kill()
    assert worker_rank(os.getpid()) is None
    assert worker_rank(2**22 + 1) is None


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = StudyDir(tmp_path / "study").run(CASE.case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, CASE.to_json())
    return run


def test_sampler_process(run: RunDir) -> None:
    # Its parent is a shell that starts one "rank" and ends: the sampler ends with it.
    worker = f"RANK=0 {sys.executable} -c 'while True: pass' -m paceline.bench.worker & worker=$!"
    sampler = f'{sys.executable} -m paceline.profiling.samplers --parent $$ "$RUN" & sampler=$!'
    script = f"{worker}\n{sampler}\nsleep 8; kill $worker; echo $sampler"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "RUN": str(run.path), "SLURMD_NODENAME": "node7"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    sampler_pid = done.stdout.strip()
    deadline = time.monotonic() + 10
    while Path("/proc", sampler_pid).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path("/proc", sampler_pid).exists()
    header, *samples = [json.loads(line) for line in run.samples_jsonl("node7").read_text().splitlines()]
    assert (header["type"], header["schema"], header["node"]) == ("header", SAMPLES_SCHEMA, "node7")
    assert (header["case_id"], header["attempt"], header["interval_s"]) == (CASE.case_id, 1, 1.0)
    assert header["gpus"] == []
    assert len(samples) >= 4
    times = [sample["t_s"] for sample in samples]
    assert statistics.median(t % 1.0 for t in times) < 0.5, times
    busy = [sample["ranks"][0] for sample in samples if sample["ranks"]]
    assert busy and {entry["rank"] for entry in busy} == {0}
    assert max(entry["thread_groups"]["main"] for entry in busy) > 10
