"""The GPUs of a job, through NVML: which they are, and what their counters say. Scope: node.

NVML sees the node's GPUs whatever CUDA_VISIBLE_DEVICES says, in PCI order. `visible` picks the job's: entries of
CUDA_VISIBLE_DEVICES may be indices, UUIDs (or the beginning of one), and MIG instances. What a driver or a device does
not support is None.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Bits of nvmlDeviceGetCurrentClocksEventReasons. The bit for an idle GPU is left out: idling is no throttling.
THROTTLE_REASONS = {
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the job, or one MIG instance of a GPU."""

    index: int
    uuid: str
    handle: Any
    mig: Any = None
    """Handle of the MIG instance. Memory and processes are the instance's; clocks and temperature the whole GPU's."""


def visible(gpus: Sequence[Gpu], setting: str | None, instances: Callable[[Gpu], Sequence[Gpu]]) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves to a process, in its order.

    Args:
        gpus: All GPUs of the node, in NVML's order.
        setting: The variable; None if it is not set, which leaves all.
        instances: Returns the MIG instances of a GPU.

    As CUDA does, the list ends at the first entry that names no GPU: ``"0,9,1"`` on two GPUs leaves GPU 0, ``""`` none.
    """
    if setting is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        gpu = _named(gpus, entry, instances)
        if gpu is None:
            break
        found.append(gpu)
    return found


def _named(gpus: Sequence[Gpu], entry: str, instances: Callable[[Gpu], Sequence[Gpu]]) -> Gpu | None:
    if entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    if entry.startswith("MIG-GPU-"):  # before driver 470: MIG-GPU-<uuid>/<GPU instance>/<compute instance>
        entry = entry.removeprefix("MIG-").split("/")[0]
        parent = next((gpu for gpu in gpus if gpu.uuid == entry), None)
        return next(iter(instances(parent)), None) if parent else None
    if entry.startswith("MIG-"):
        return next((each for gpu in gpus for each in instances(gpu) if each.uuid.startswith(entry)), None)
    if entry.startswith("GPU-"):
        return next((gpu for gpu in gpus if gpu.uuid.startswith(entry)), None)
    return None


class Nvml:
    """NVML of this node. Every question that a device cannot answer gives None."""

    def __init__(self, pynvml: Any) -> None:
        self._pynvml = pynvml
        pynvml.nvmlInit()

    def gpus(self) -> list[Gpu]:
        """Return all GPUs that NVML sees, in its order."""
        nvml = self._pynvml
        found = []
        for index in range(self._ask(nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
            uuid = self._text(nvml.nvmlDeviceGetUUID, handle) if handle is not None else None
            if uuid is not None:
                found.append(Gpu(index, uuid, handle))
        return found

    def instances(self, gpu: Gpu) -> list[Gpu]:
        """Return the MIG instances of a GPU, empty if it has none."""
        nvml = self._pynvml
        found = []
        for number in range(self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, gpu.handle) or 0):
            mig = self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu.handle, number)
            uuid = self._text(nvml.nvmlDeviceGetUUID, mig) if mig is not None else None
            if uuid is not None:
                found.append(Gpu(gpu.index, uuid, gpu.handle, mig))
        return found

    def of_job(self, setting: str | None, count: int) -> list[Gpu]:
        """Return the GPUs of a job's ranks on this node: the first ``count`` of those visible (rank r uses cuda:r)."""
        return visible(self.gpus(), setting, self.instances)[:count]

    def facts(self, gpu: Gpu) -> dict[str, Any]:
        """Return what does not change, for the header of the samples."""
        nvml = self._pynvml
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, gpu.mig or gpu.handle)
        return {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": self._text(nvml.nvmlDeviceGetName, gpu.mig or gpu.handle),
            "memory_total_bytes": memory.total if memory is not None else None,
            "power_limit_w": _thousandth(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, gpu.handle)),
            "driver_version": self._text(nvml.nvmlSystemGetDriverVersion),
            "sm_clock_max_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, gpu.handle, nvml.NVML_CLOCK_SM),
        }

    def pci_bus_id(self, gpu: Gpu) -> str | None:
        """Return where a GPU is, such as ``00000000:17:00.0``."""
        nvml = self._pynvml
        info = self._ask(nvml.nvmlDeviceGetPciInfo, gpu.handle)
        return None if info is None else info.busId.decode() if isinstance(info.busId, bytes) else str(info.busId)

    def sample(self, gpu: Gpu) -> dict[str, Any]:
        """Return the present value of every counter of a GPU, without its processes."""
        nvml, handle = self._pynvml, gpu.handle
        utilization = None if gpu.mig else self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        # Power and energy are the whole GPU's: said for an instance, they would be counted once for each.
        power = None if gpu.mig else self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        energy = None if gpu.mig else self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return {
            "uuid": gpu.uuid,
            "util_pct": utilization.gpu if utilization is not None else None,
            "memory_used_bytes": self.memory_used_bytes(gpu),
            "temperature_c": self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "power_w": _thousandth(power),
            "energy_j": _thousandth(energy),
            "sm_clock_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            "throttle": self._throttle(handle),
        }

    def memory_used_bytes(self, gpu: Gpu) -> int | None:
        """Return the device memory in use by all processes and the driver."""
        memory = self._ask(self._pynvml.nvmlDeviceGetMemoryInfo, gpu.mig or gpu.handle)
        return None if memory is None else int(memory.used)

    def processes(self, gpu: Gpu) -> list[int] | None:
        """Return the process ids that compute on a GPU, as the host numbers them; None if it does not tell."""
        processes = self._ask(self._pynvml.nvmlDeviceGetComputeRunningProcesses, gpu.mig or gpu.handle)
        return None if processes is None else sorted({int(process.pid) for process in processes})

    def close(self) -> None:
        """Release NVML."""
        self._ask(self._pynvml.nvmlShutdown)

    def _throttle(self, handle: Any) -> list[str] | None:
        # The name changed with driver 535; older bindings have only the old one.
        question = getattr(self._pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            self._pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        bits = self._ask(question, handle) if question is not None else None
        return None if bits is None else [name for bit, name in THROTTLE_REASONS.items() if int(bits) & bit]

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._pynvml.NVMLError:  # not supported, no permission, GPU lost
            return None

    def _text(self, question: Callable[..., Any], *arguments: Any) -> str | None:
        text = self._ask(question, *arguments)
        return text.decode() if isinstance(text, bytes) else text


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def foreign(pids: Sequence[int] | None, own: set[int]) -> int | None:
    """Return how many of the processes on a GPU are none of the job's, None if that cannot be known.

    NVML speaks of process ids as the host numbers them. In a process namespace of its own (some containers) this
    process knows other numbers, so nothing can be told.
    """
    if pids is None or not in_host_namespace():
        return None
    return sum(1 for pid in pids if pid not in own and os.path.exists(f"/proc/{pid}") and not _is_mps(pid))


def in_host_namespace() -> bool:
    """Return whether this process sees the host's process ids. The kernel's first namespace has a fixed number."""
    try:
        return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    except OSError:
        return False


def _is_mps(pid: int) -> bool:
    """Return whether a process is NVIDIA's MPS server, through which the job's own processes compute."""
    try:
        with open(f"/proc/{pid}/comm") as stream:
            return stream.read().startswith("nvidia-cuda-mps")
    except OSError:
        return False


def open_nvml() -> Nvml | None:
    """Return NVML, None if this node has no NVIDIA driver or no Python binding for it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return Nvml(pynvml)
    except pynvml.NVMLError:
        return None
