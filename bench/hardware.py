"""Facts for the header of a rank's record: device, processor, threads, versions, Slurm. Scope: rank.

What cannot be found out is None. Nothing here changes anything but `limit_threads`, which runs before any library that
reads thread settings is imported.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "PXR_WORK_THREAD_LIMIT",  # OpenUSD
)

# Name in the record -> distribution whose version it is.
_DISTRIBUTIONS = {
    "isaaclab": "isaaclab",
    "newton": "newton",
    "warp": "warp-lang",
    "mujoco": "mujoco",
    "mujoco_warp": "mujoco-warp",
    "rsl_rl": "rsl-rl-lib",
    "rl_games": "rl-games",
    "gymnasium": "gymnasium",
    "numpy": "numpy",
    "nvtx": "nvtx",
    "isaacsim": "isaacsim",
    "ovphysx": "ovphysx",
}

_SLURM = {
    "job_id": "SLURM_JOB_ID",
    "step_id": "SLURM_STEP_ID",
    "node": "SLURMD_NODENAME",
    "partition": "SLURM_JOB_PARTITION",
    "cluster": "SLURM_CLUSTER_NAME",
    "restart_count": "SLURM_RESTART_COUNT",
    "gpus": "SLURM_JOB_GPUS",
}


def limit_threads(threads: int) -> None:
    """Set what numerical libraries read when they are loaded, in this process's environment."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)


def node_name() -> str:
    """Return the name of this node as Slurm knows it, or its host name without domain."""
    return os.environ.get("SLURMD_NODENAME") or platform.node().split(".")[0] or "localhost"


def thread_facts() -> dict[str, Any]:
    """Return the effective thread settings, read back from the libraries (torch must be imported)."""
    import torch

    facts: dict[str, Any] = {
        "torch": torch.get_num_threads(),
        "torch_interop": torch.get_num_interop_threads(),
        "omp_num_threads": _int(os.environ.get("OMP_NUM_THREADS")),
        "pxr_work_thread_limit": _int(os.environ.get("PXR_WORK_THREAD_LIMIT")),
    }
    work = sys.modules.get("pxr.Work")
    if work is not None:
        facts["pxr_effective"] = int(work.GetConcurrencyLimit())
    return facts


def cpu_facts() -> dict[str, Any]:
    """Return model, number of logical cores of the node, and the cores this process may use."""
    model = None
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "model": model or platform.processor() or None,
        "logical_cores": os.cpu_count(),
        "affinity_cores": len(affinity) if affinity is not None else None,
        "affinity": affinity,
    }


def device_facts(device: str) -> dict[str, Any]:
    """Return what is known of the device that a rank trains on (``cpu`` or ``cuda:<index>``)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not device.startswith("cuda"):
        return {
            "kind": "cpu",
            "name": cpu_facts()["model"],
            "uuid": None,
            "memory_total_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "driver_version": None,
            "cuda_visible_devices": visible,
        }
    import torch

    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return {
        "kind": "cuda",
        "name": properties.name,
        "uuid": gpu_uuid(str(uuid)) if uuid is not None else None,
        "memory_total_bytes": properties.total_memory,
        "driver_version": _driver_version(),
        "cuda_visible_devices": visible,
        "index": torch.device(device).index,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
    }


def gpu_uuid(uuid: str) -> str:
    """Return a GPU's UUID as NVML and nvidia-smi write it: with GPU- (or MIG-) in front, lower case."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid.lower()}"


def _driver_version() -> str | None:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def versions() -> dict[str, str | None]:
    """Return the versions of everything that decides how fast a run is (torch must be imported)."""
    import torch

    found: dict[str, str | None] = {
        **_own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": _nccl_version(),
        "os": platform.platform(),
    }
    for name, distribution in _DISTRIBUTIONS.items():
        found[name] = _distribution_version(distribution)
    return found


def _distribution_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _own_version() -> dict[str, str | None]:
    """Return version and origin of the code that runs: of the study's snapshot, or of the installed package."""
    snapshot = Path(__file__).resolve().parents[2] / "snapshot.json"
    try:
        data = json.loads(snapshot.read_text())
        return {
            "paceline": data.get("version"),
            "paceline_commit": data.get("git_commit"),
            "paceline_content": data.get("content_hash"),
        }
    except (OSError, ValueError):
        pass
    return {"paceline": _distribution_version("paceline")}


def _nccl_version() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        return ".".join(str(part) for part in torch.cuda.nccl.version())
    except (AttributeError, RuntimeError):
        return None


def slurm_facts() -> dict[str, str]:
    """Return what Slurm says about the job in the environment, empty outside Slurm."""
    return {name: os.environ[variable] for name, variable in _SLURM.items() if variable in os.environ}


def resident_bytes() -> int | None:
    """Return the resident set size of this process."""
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
