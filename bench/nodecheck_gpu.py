"""Checks of a node's GPUs: mask, driver against CUDA and nsys, foreign processes, Vulkan. Standard library only."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from paceline.bench import imageprobe
from paceline.bench.errors import TraceError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir
from paceline.profiling import nsys

Row = tuple[str, str, str, "str | None"]

# Oldest driver for each major version of CUDA, from NVIDIA's table of minor version compatibility.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_FIELDS = ("index", "uuid", "name", "driver_version")


@functools.lru_cache(maxsize=1)
def _listed() -> list[dict[str, str]]:
    """Return what nvidia-smi says of each GPU of the node, empty without one."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if done.returncode == 0]
    return [dict(zip(_FIELDS, (word.strip() for word in row), strict=True)) for row in rows if len(row) == len(_FIELDS)]


def mask() -> list[str] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES, None if it is not set."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if text is None else [entry.strip() for entry in text.split(",") if entry.strip()]


def gpus(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether as many GPUs are there and visible as the node has ranks."""
    if case.device != "cuda":
        return
    present, wanted = _listed(), mask()
    need = case.local_world_size
    if shutil.which("nvidia-smi") is None and wanted is not None:
        text = f"nvidia-smi is not here: {len(wanted)} GPUs are promised, and none could be asked"
        yield "gpus", "warning", text, "put it on PATH (in a container: --nv or --gpus bring it along)"
        return
    if not present:
        fix = "the node has no working driver, or the container was started without its GPUs (--nv, --gpus)"
        yield "gpus", "failure", f"nvidia-smi finds none, {need} are needed", fix
        return
    visible = len(present) if wanted is None else len(wanted)
    shown = "not restricted" if wanted is None else f"CUDA_VISIBLE_DEVICES={','.join(wanted)}"
    text = f"{visible} x {present[0]['name']} ({shown})"
    if visible < need:
        fix = "ask for as many as there are ranks: gpus_per_node and gpu_request in the cluster profile"
        yield "gpus", "failure", f"{text}, {need} are needed", fix
        return
    unknown = [entry for entry in wanted or () if not _names_gpu(entry, present)]
    if unknown:
        fix = "do not set CUDA_VISIBLE_DEVICES yourself; Slurm does"
        yield "gpus", "failure", f"{shown}: there is no GPU {', '.join(unknown)} on this node", fix
        return
    seen = cuda_devices()
    if seen is not None and seen < need:
        fix = "set no CUDA_VISIBLE_DEVICES yourself; if nvidia-smi shows a GPU that CUDA does not see, ask the site"
        yield "gpus", "failure", f"CUDA sees {seen} of {text}, {need} are needed", fix
        return
    if len({gpu["name"] for gpu in present}) > 1:
        names = ", ".join(sorted({gpu["name"] for gpu in present}))
        fix = "gpu_type in the cluster profile asks for one kind"
        yield "gpus", "warning", f"{text}; the node has several kinds: {names}", fix
    else:
        yield "gpus", "ok", text, None
    if case.engine_version.startswith("2.") and wanted and wanted[0].isdigit() and wanted[0] != "0":
        fix = "tasks with cameras need whole nodes (exclusive: true), or Isaac Lab 3.0"
        yield (
            "gpus",
            "warning",
            f"{shown} does not begin with 0: Isaac Sim 2.3 renders on another GPU than it trains",
            fix,
        )


def cuda_devices() -> int | None:
    """Return how many GPUs the driver gives to a program with this environment, None without the driver's library."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return 0  # such as: no device that CUDA_VISIBLE_DEVICES names
    return int(count.value)


def _names_gpu(entry: str, present: list[dict[str, str]]) -> bool:
    if entry.isdigit():
        # Under control groups a process sees its own GPUs only, numbered from 0, whatever the mask says.
        return True if len(present) <= int(entry) else any(gpu["index"] == entry for gpu in present)
    return entry.startswith("MIG-") or any(gpu["uuid"].startswith(entry) for gpu in present)


def driver(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether the driver is new enough for the CUDA of torch, and whether nsys may trace with it."""
    if case.device != "cuda" or not _listed():
        return
    version = _listed()[0]["driver_version"]
    cuda = imageprobe.probe()["torch_cuda"]
    major = int(cuda.split(".")[0]) if cuda else None
    oldest = _OLDEST_DRIVER.get(major or 0)
    if cuda is None:
        fix = "install a CUDA build of torch, or name another python: or image: in the cluster profile"
        yield "driver", "failure", f"driver {version}; torch is missing or built without CUDA", fix
    elif oldest and int(re.match(r"\d*", version).group() or 0) < oldest:  # type: ignore[union-attr]
        fix = f"CUDA {major} needs driver {oldest} or newer: an image with an older CUDA, or a newer driver"
        yield "driver", "failure", f"driver {version} is too old for torch's CUDA {cuda}", fix
    else:
        yield "driver", "ok", f"driver {version}, torch's CUDA {cuda}", None
    try:
        program = nsys.find()
        if program is not None:
            why = nsys.problem(nsys.version(program), version)
            yield "nsys", "warning" if why else "ok", why or f"{program}", None
    except TraceError as error:
        yield "nsys", "warning", str(error), None


def foreign(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether somebody else computes on the job's GPUs."""
    if case.device != "cuda" or not _listed():
        return
    command = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    wanted = mask()
    ours = {gpu["uuid"] for gpu in _listed() if wanted is None or gpu["index"] in wanted or gpu["uuid"] in wanted}
    busy = [row for line in done.stdout.splitlines() if len(row := line.split(", ")) == 3 and row[0] in ours]
    if busy:
        used = sum(_number(row[2]) for row in busy)
        text = f"{len(busy)} process(es) of others compute on the job's GPUs, {used} MiB in use"
        fix = "exclusive: true, or ask the site: what is measured beside them says little"
        yield "foreign", "warning", text, fix
    else:
        yield "foreign", "ok", "nobody else computes on the job's GPUs", None


def vulkan(run: RunDir, case: Case) -> Iterator[Row]:
    """Say whether Vulkan finds a device, where the engine needs it: Isaac Sim does, kit-less Isaac Lab does not."""
    # A study says which engine it runs; the doctor's own check goes by what is in the image.
    asked = case.task == "doctor" and case.device == "cuda" and _isaac_sim()
    if not (asked or case.engine_version.startswith("2.")):
        return
    fix = (
        "the node needs the driver's graphics part (nvidia_icd.json, libGLX_nvidia) and the container must see it: "
        "--nv, NVIDIA_DRIVER_CAPABILITIES=all; without it, Isaac Lab 3.0 with Newton trains without Vulkan"
    )
    icd = [
        path for folder in ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d") for path in Path(folder).glob("*nvidia*")
    ]
    count = vulkan_devices()
    if isinstance(count, str):
        where = f"; driver files: {', '.join(map(str, icd)) or 'none'}"
        yield "vulkan", "failure", count + where, fix
    else:
        yield "vulkan", "ok" if count else "failure", f"{count} device(s)", None if count else fix


def _isaac_sim() -> bool:
    return imageprobe.probe()["isaacsim"] is not None


def vulkan_devices() -> int | str:
    """Return how many devices Vulkan has, or why it cannot be asked, one line."""
    try:
        library = ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return "libvulkan.so.1 is not there"

    class InstanceInfo(ctypes.Structure):
        """VkInstanceCreateInfo."""

        _fields_ = (
            ("sType", ctypes.c_int32),
            ("pNext", ctypes.c_void_p),
            ("flags", ctypes.c_uint32),
            ("pApplicationInfo", ctypes.c_void_p),
            ("enabledLayerCount", ctypes.c_uint32),
            ("ppEnabledLayerNames", ctypes.c_void_p),
            ("enabledExtensionCount", ctypes.c_uint32),
            ("ppEnabledExtensionNames", ctypes.c_void_p),
        )

    instance, count = ctypes.c_void_p(), ctypes.c_uint32()
    result = library.vkCreateInstance(ctypes.byref(InstanceInfo(sType=1)), None, ctypes.byref(instance))
    if result:
        return f"vkCreateInstance failed ({result}{': no driver' if result == -9 else ''})"
    result = library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    library.vkDestroyInstance(instance, None)
    return f"vkEnumeratePhysicalDevices failed ({result})" if result else int(count.value)


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
