"""Failure classes: every text of the table in a log as it looks, overflows in completed runs, logs of any size."""

# ruff: noqa: E501 (lines of logs as they are)

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from paceline.bench import causes, failures, logscan

# What a log looks like around the line that matters: torchrun, two ranks, and the consequences of one that ended.
BEFORE = """\
paceline: training starts at 2026-11-21T10:00:00Z
[rank0]: [INFO]: Time taken for scene creation : 2.1 seconds
[Warning] [omni.client.plugin] Disabling key-value database because another kit process is locking it
Learning iteration 3/60
"""
AFTER = """\
W1121 10:01:02.003 417 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 419 closing signal SIGTERM
E1121 10:01:02.004 417 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: 1) local_rank: 0 (pid: 418)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
paceline.bench.worker FAILED
------------------------------------------------------------
paceline: training ended at 2026-11-21T10:01:03Z with exit code 1
"""

TEXTS = [
    ("oom_physx", "PhysX error: PxgCudaDeviceMemoryAllocator fail to allocate memory 339738624 bytes!! Result = 2"),
    ("oom_device_init", "[Error] [carb.cudainterop.plugin] CUDA error 2: cudaErrorMemoryAllocation - out of memory)"),
    ("oom_device_init", "[Error] [omni.physx.plugin] Unable to create PxCudaContextManager!"),
    ("oom_device_init", "[Error] [carb.cudainterop.plugin] Failed to get primary context of requested CUDA device 0"),
    ("oom_device", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity"),
    ("oom_device", "RuntimeError: CUDA error: out of memory"),
    ("oom_device", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("oom_device", "Warp CUDA error 2: RuntimeError: Failed to allocate 4096 bytes on device 'cuda:0'"),
    ("oom_vulkan", "[Error] [gpu.foundation.plugin] Out of GPU memory allocating resource 'texture'"),
    ("oom_vulkan", "[Error] [carb.graphics-vulkan.plugin] VkResult: ERROR_OUT_OF_DEVICE_MEMORY"),
    ("oom_vulkan", "[Fatal] [carb.graphics-vulkan.plugin] A GPU crash occurred. Exiting the application..."),
    ("oom_host", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."),
    ("oom_host", "slurmstepd: error: StepId=7.batch exceeded memory limit (900000 > 800000), being killed"),
    ("oom_host", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("oom_host", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB\nMemoryError"),
    ("oom_host", "paceline supervise: the kernel killed 1 process(es) of this job for memory"),
    ("time_limit", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME LIMIT ***"),
    ("preempted", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO PREEMPTION ***"),
    ("node_failure", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO NODE FAILURE ***"),
    ("cancelled", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:00:00 ***"),
    ("stalled", "paceline supervise: no rank has recorded anything for 300 s: ending them"),
    ("stalled", "paceline supervise: rank 1, 3 have recorded nothing for 300 s: ending them"),
    ("disk_full", "OSError: [Errno 28] No space left on device"),
    ("disk_full", "OSError: [Errno 122] Disk quota exceeded: 'rank-0000.jsonl'"),
    ("read_only", "paceline: error: the run folder is not writable: /scratch/study/runs/0123456789ab/attempt-1"),
    ("read_only", "OSError: [Errno 30] Read-only file system: 'trainer'"),
    ("wrong_gpus", "paceline: error: 1 GPUs are visible on node1, 2 are needed"),
    ("licence", "The NVIDIA Omniverse License Agreement (EULA) must be accepted before Omniverse Kit can start."),
    ("licence", "Do you accept the EULA? (Yes/No): EOFError: EOF when reading a line"),
    ("image", "FATAL:   could not open image /images/isaaclab.sif: failed to retrieve path: no such file or directory"),
    ("image", "Unable to find image 'isaac-lab:3.0.0' locally"),
    ("image", "pyxis: error: failed to import docker image: isaac-lab:3.0.0"),
    ("container", "WARNING: nv files may not be bound with --writable"),
    ("container", "FATAL:   container creation failed: mount /n->/n error: destination /n doesn't exist in container"),
    ("container", "[Error] Failed to create directory /isaac-sim/kit/data/documents/Kit/apps/Isaac-Sim/scripts/new_stage"),
    ("container", "[Error] failed to open file '/isaac-sim/kit/data/Kit/Isaac-Sim/4.2/user.config.json' - unable to save the dictionary"),
    ("container", "[Warning] Cannot find Documents/Kit/shared directory"),
    ("fork_denied", "[Error] [carb.launcher.plugin] failed to fork the child process {errno = -1/Unknown error -1, lastErrno = 13/Permission denied}"),
    ("missing_library", "OSError: libGLU.so.1: cannot open shared object file: No such file or directory"),
    ("settings", "  paceline.bench.errors.LaunchError: rsl_rl does not do what case.json asks for: horizon is 16"),
    ("wrong_device", "ValueError: Device 'cuda:0' does not match expected device for local rank 1"),
    ("driver", "RuntimeError: Found no NVIDIA driver on your system."),
    ("driver", "cuInit failed: CUDA_ERROR_NO_DEVICE"),
    ("no_trace", "[QuadDCommon::tag_message*] = Local Endpoint is not available."),
    ("physx_crash", "[Error] [omni.physx.plugin] PhysX error: Failed to allocate pinned memory"),
    ("physx_crash", "PhysX error: SynchronizeStreams cuEventRecord failed with error 700"),
    ("physx_crash", "[Error] [omni.physx.plugin] Cuda context manager error, simulation will be stopped and new cuda context manager will be created."),
    ("physx_kernel", "PhysX error: fail to launch kernel stage 4!!"),
    ("physx_kernel", "PhysX Internal CUDA error. GPU cudaMainGjkEpa fail"),
    ("device_mask", "[Error] [carb.cudainterop.plugin] CUDA error 700: cudaErrorIllegalAddress"),
    ("gpu", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("gpu", "kernel: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."),
    ("vulkan", "[Error] [carb.graphics-vulkan.plugin] VkResult: ERROR_INITIALIZATION_FAILED"),
    ("vulkan", "[Error] [carb.graphics-vulkan.plugin] vkCreateDevice failed."),
    ("vulkan", "[Error] [gpu.foundation.plugin] No device could be created. Some known system issues:"),
    ("vulkan", "[Error] [carb.graphics-vulkan.plugin] vkCreateInstance failed: ERROR_INCOMPATIBLE_DRIVER"),
    ("renderer_race", "[Error] [omni.physx.plugin] Stage 3 already attached"),
    ("cache_lock", "[Error] [omni.datastore] Failed to acquire exclusive lock to data store (256>=256)"),
    ("cache_lock", "[Error] [omni.datastore] Failed to create local file data store at '/h/kit/cache/DerivedDataCache'"),
    ("cache", "Warp UserWarning: failed to load kernel module from /cache/warp/1.14.0/wp_x.o: file is corrupt"),
    ("cache", "EOFError: marshal data too short\nImportError: bad marshal data (unknown type code)"),
    ("cache", "EOFError: marshal data too short"),
    ("asset", "FileNotFoundError: USD file not found at path 'https://assets/Isaac/Robots/Ant/ant_instanceable.usd'."),
    ("physics_failed", "[Error] [omni.physx.plugin] Scene state is corrupted. Simulation cannot continue!"),
    ("physics_limit", "PhysX error: PxPhysics: exceeded 64k material limit"),
    ("physics_setup", "ValueError: MuJoCo naconmax (8000) exceeds contacts.rigid_contact_max (4000)"),
    ("heap_corruption", "malloc(): invalid size (unsorted)"),
    ("missing_package", "ModuleNotFoundError: No module named 'isaaclab_tasks'"),
    ("nccl", "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:77, unhandled cuda error"),
    ("nccl", "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."),
    ("nccl", "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 1800000 ms"),
    ("rendezvous", "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError: "),
    ("segfault", "Fatal Python error: Segmentation fault"),
    ("segfault", "  exitcode  : -11 (pid: 5)"),
    ("signal", "torch.distributed.elastic.multiprocessing.api.SignalException: Process 5 got signal: 15"),
    ("killed", "  exitcode  : -9 (pid: 5)"),
    ("killed", "Killed"),
    ("gloo", "RuntimeError: [../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711"),
    ("gloo", "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:3224: Connection reset by peer"),
    ("python", "paceline: error: this Python does not run, or is older than 3.10: /no/python"),
    ("preflight", "paceline: error: the study's copy of the code is missing: /scratch/study/code"),
    ("gloo", "RuntimeError: [enforce fail at gloo] Gloo connectFullMesh failed with no error"),
    ("gloo", "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"),
    ("oom_host", "[12345.678901] Out of memory: Killed process 4711 (python) total-vm:98765432kB, anon-rss:65432100kB"),
    ("oom_host", "OSError: [Errno 12] Cannot allocate memory"),
    ("image", "docker: Error response from daemon: pull access denied for isaac-lab, repository does not exist or may require 'docker login'."),
    ("image", "Error response from daemon: manifest for nvcr.io/nvidia/isaac-lab:9.9 not found: manifest unknown: manifest unknown"),
    ("image", "Error: No such image: isaac-lab:3.0.0"),
    ("driver", "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version"),
    ("driver", "RuntimeError: CUDA error: no CUDA-capable device is detected"),
    ("gpu", "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    ("gpu", "RuntimeError: CUDA error: device-side assert triggered"),
    ("cache", "zipfile.BadZipFile: File is not a zip file"),
    ("cache", "ImportError: bad magic number in 'isaaclab.envs': b'\\x00\\x00\\x00\\x00'"),
    ("asset", "[Error] [isaaclab.sim.spawners] Unable to open the usd file at path: /assets/Isaac/Robots/Ant/ant.usd"),
    ("nccl", "ncclUnhandledCudaError: Call to CUDA function failed."),
    ("nccl", "ncclInternalError: Internal check failed."),
    ("nccl", "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."),
    ("nccl", "[rank1]:[E1121 10:01:02 ProcessGroupNCCL.cpp:1895] [PG ID 0] Process group watchdog: NCCL timeout, ran for 600000 ms"),
    ("nccl", "[rank0]:[E1121 10:01:02 ProcessGroupNCCL.cpp:1554] NCCL watchdog thread terminated with exception"),
    ("segfault", "  traceback : Signal 11 (SIGSEGV) received by PID 418"),
    ("killed", "  traceback : Signal 9 (SIGKILL) received by PID 419"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "text"), TEXTS)
def test_each_text_tells_its_class(tmp_path: Path, cause: str, text: str) -> None:
    log = tmp_path / "train.log"
    log.write_text(BEFORE + text + "\n" + AFTER)
    found = causes.read_log(log, 64).cause
    assert found.cause == cause
    assert any(line in " ".join(text.split()) for line in found.evidence), found.evidence
    known = failures.failure_class(found.cause)
    assert known.name == cause and known.advice.endswith(".")


def alternatives(pattern: str) -> list[str]:
    """Return the parts of a regular expression between the bars that are in no bracket."""
    found, depth = [""], 0
    for token in re.findall(r"\\.|.", pattern):
        depth += (token in "([") - (token in ")]")
        if token == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += token
    return found


def test_every_text_of_the_table_is_tried() -> None:
    unused = [
        (row.cause, text)
        for row in failures.texts()
        for text in alternatives(row.pattern.pattern)
        if not any(any(w in t for w in row.words) and re.search(text, t, re.MULTILINE) for _, t in TEXTS)
    ]
    assert not unused


def test_the_table_is_whole() -> None:
    named = {row.cause for row in (*failures.texts(), *failures.last_lines())}
    assert named <= set(failures.classes())
    for each in failures.classes().values():
        assert re.fullmatch(r"[a-z][a-z_]+", each.name)
        assert each.retry in ("again", "elsewhere", "larger", "asked", "never")
        assert each.advice[0].isupper() and each.advice.count(". ") == 0, "one sentence"
        assert each.family != "bug" or each.retry == "never"
    families = {each.family for each in failures.classes().values()}
    assert families >= {
        "out of memory", "invalid physics", "NCCL", "Vulkan", "asset", "licence", "cache lock", "hang", "time limit",
        "preempted", "node failure", "killed", "bug",
    }  # fmt: skip
    for row in (*failures.texts(), *failures.last_lines()):
        assert not row.pattern.pattern.startswith(".*")


def test_a_bug_comes_before_its_consequences(tmp_path: Path) -> None:
    """One rank raises an exception; what the others say about it, and how torchrun ends them, is not the cause."""
    log = tmp_path / "train.log"
    gloo = "[rank1]: RuntimeError: [../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711\n"
    nccl = "torch.distributed.DistBackendError: NCCL error in: x, remote process exited\n"
    log.write_text(BEFORE + nccl + gloo + "[rank0]: ValueError: a mistake\n" + "  exitcode  : -9 (pid: 5)\n" + AFTER)
    found = causes.read_log(log, 64).cause
    assert (found.cause, found.message) == ("error", "ValueError: a mistake")


def test_a_bug_comes_before_what_nsys_says_of_it(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    said = "[QuadDCommon::tag_message*] = Local Endpoint is not available.\n"
    log.write_text(BEFORE + "ValueError: a mistake\n" + AFTER + said)
    assert causes.read_log(log, 64).cause.cause == "error"


def test_what_is_benign_is_no_cause(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(BEFORE + AFTER)
    assert causes.read_log(log, 64).cause.cause == "unknown"


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        ("Synchronizing parameters for rank 0...", "hang_init"),
        ("[Info] [rtx.pso] waiting for RtPso async group async compilation", "hang_shaders"),
        ("Learning iteration 4/60", "stalled"),
    ],
)
def test_a_hang_is_told_by_its_last_line(tmp_path: Path, last: str, cause: str) -> None:
    log = tmp_path / "train.log"
    said = "paceline supervise: no rank has recorded anything for 300 s: ending them"
    log.write_text(f"{BEFORE}{last}\n{said}\n{AFTER}")
    found = causes.read_log(log, 64).cause
    assert (found.cause, found.message) == (cause, said)
    assert last in found.evidence


OVERFLOWS = [
    ("PhysX error: Patch buffer overflow detected, please increase its size to at least 200000 in the scene desc!", "gpu_max_rigid_patch_count", 200000),
    ("PhysX error: Contact buffer overflow detected, please increase its size to at least 9000000 in the scene desc!", "gpu_max_rigid_contact_count", 9000000),
    ("PxGpuDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase its size to at least 268435456 in the scene desc! Contacts have been dropped.", "gpu_collision_stack_size", 268435456),
    ("PxgDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase its size to at least 7 in the scene desc!", "gpu_collision_stack_size", 7),
    ("The application needs to increase PxGpuDynamicsMemoryConfig::totalAggregatePairsCapacity to 11000 , otherwise, the simulation will miss interactions", "gpu_total_aggregate_pairs_capacity", 11000),
    ("the application need to increase the PxgDynamicsMemoryConfig::foundLostPairsCapacity parameter to 3 , otherwise the simulation will miss interactions", "gpu_found_lost_pairs_capacity", 3),
    ("The application needs to increase PxGpuDynamicsMemoryConfig::foundLostAggregatePairsCapacity to 5 , otherwise, the simulation will miss interactions", "gpu_found_lost_aggregate_pairs_capacity", 5),
    ("Number of Newton contacts (6400) exceeded MJWarp limit (3200). Increase nconmax.", "solver_cfg.nconmax", 100),
    ("narrowphase overflow - please increase nconmax to 40 or naconmax to 2560", "solver_cfg.nconmax", 40),
    ("nefc overflow - please increase njmax to 400", "solver_cfg.njmax", 400),
]  # fmt: skip


@pytest.mark.parametrize(("text", "setting", "needed"), OVERFLOWS)
def test_overflows_are_told_by_buffer_and_size(tmp_path: Path, text: str, setting: str, needed: int) -> None:
    log = tmp_path / "train.log"
    log.write_text(BEFORE + f"{text}\n" * 3 + "Learning iteration 60/60\n")
    found = causes.read_log(log, 64)
    (overflow,) = found.overflows
    assert (overflow.setting, overflow.needed, overflow.count) == (setting, needed, 3)
    assert overflow.first == text
    assert found.invalid_physics is not None
    assert overflow.buffer in found.invalid_physics and str(needed) in found.invalid_physics


def test_an_overflow_explains_what_it_leads_to(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(BEFORE + OVERFLOWS[0][0] + "\nScene state is corrupted. Simulation cannot continue!\n" + AFTER)
    found = causes.read_log(log, 64)
    assert found.cause.cause == "physics_failed"
    assert found.root_cause(found.cause).cause == "invalid_physics"
    bug = causes.Cause("error", "ValueError: mine")
    assert found.root_cause(bug) == bug, "a bug is a bug"


def test_long_logs(tmp_path: Path) -> None:
    """The largest size, the count and the first text come from all of a log, little of which is in memory at a time."""
    log = tmp_path / "train.log"
    overflow = "Patch buffer overflow detected, please increase its size to at least {} in the scene desc!\n"
    filler = b"Learning iteration 7/60 \xff\xfe some text\n" * 1000
    with log.open("wb") as stream:
        stream.write(filler + overflow.format(5).encode())
        while stream.tell() < 40 << 20:
            stream.write(filler)
        stream.write(overflow.format(900).encode())
        stream.write(filler * 2 + b"x" * (6 << 20) + b"\n" + overflow.format(70).encode() + b"ValueError: now\n")
    start = time.monotonic()
    found = causes.read_log(log, 64)
    assert time.monotonic() - start < 20
    assert found.size_bytes == found.searched_bytes == log.stat().st_size > logscan.WHOLE_BYTES
    (patch,) = found.overflows
    assert (patch.needed, patch.count) == (900, 3) and "at least 5 " in patch.first
    assert found.cause.cause == "error"


def test_a_search_that_takes_too_long_reads_the_end(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with log.open("wb") as stream:
        stream.write(b"first word\n")
        stream.truncate(60 << 20)
        stream.seek(0, 2)
        stream.write(b"\nlast word\n")
    found = logscan.scan(log, ["word"], limit_s=0.0)
    assert [line.strip("\0") for line in found.lines] == ["first word", "last word"]
    assert found.searched_bytes < found.size_bytes


def test_no_log(tmp_path: Path) -> None:
    found = causes.read_log(tmp_path / "none", 64)
    assert found.cause.cause == "unknown" and found.invalid_physics is None
