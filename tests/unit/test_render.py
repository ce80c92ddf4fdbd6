"""Job scripts as programs: run under bash with a Python that records what it is given."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.render import directives, render_job
from paceline.bench.rundir import StudyDir

from tests.job_scene import LOCAL, case, scene

# ------------------------------------------------------------------------------------------------ what is called


@pytest.mark.parametrize(
    "name", ["study", "with blank", 'it\'s; $(touch x) `id` "q" \\ & | > < * ?', "line\nbreak", "ümläut 数", "-n", "#x"]
)
def test_any_folder_name_works_under_bash(name: str) -> None:
    with scene(name) as here:
        run = here.write(case(2), asset_root="/assets of 'me'")
        done = here.bash(run)
        assert done.returncode == 0, done.stdout + done.stderr
        calls = here.calls()
        assert [argv[:2] for argv, _ in calls] == [
            ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"],
            ["-m", "paceline.bench.nodecheck"],
            ["-m", "paceline.bench.supervise"],
            ["-m", "paceline.bench.sentinel"],
        ]
        training, seen = calls[2]
        left = training.pop(training.index("--left-s") + 1)
        assert 3500 < int(left) <= 3600, "what is left of an hour"
        assert training[2:] == [
            "--stall-s", "1800", "--exit-grace-s", "60", "--left-s", "--",
            str(here.python), "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc-per-node=2",
            "-m", "paceline.bench.worker",
        ]  # fmt: skip
        assert seen["PACELINE_RUN_DIR"] == str(run.path)
        assert seen["PYTHONPATH"] == str(here.study.code)
        assert seen["ISAACSIM_ASSET_ROOT"] == "/assets of 'me'"
        assert seen["WARP_CACHE_PATH"] == f"{here.folder}/.cache/paceline/warp"
        assert seen["XDG_CACHE_HOME"] == f"{here.folder}/.cache/paceline/xdg"
        assert {seen[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {"1"}
        assert (seen["PYTHONSAFEPATH"], seen["PYTHONUNBUFFERED"]) == ("1", "1")
        # Compiled modules go to the cache, never beside the study's copy of the code.
        assert seen["PYTHONPYCACHEPREFIX"] == f"{here.folder}/.cache/paceline/bytecode"
        assert "PYTHONDONTWRITEBYTECODE" not in seen
        assert sorted(path.name for path in run.path.iterdir()) == ["job.sh", "result.json"]


def test_a_colon_in_the_folder_name_is_refused() -> None:
    with pytest.raises(LaunchError, match="has a colon, at which PYTHONPATH would be split"):
        render_job(case(), LOCAL, StudyDir("/a:b"), 1, "python", None)


def test_values_of_secrets_are_not_printed() -> None:
    with scene() as here:
        done = here.bash(here.write(case()), WANDB_API_KEY="s3cret-value", EMPTY="")
        assert "WANDB_API_KEY" in done.stdout
        assert "s3cret-value" not in done.stdout + done.stderr


def test_caches_follow_the_profile_and_xdg() -> None:
    with scene() as here:
        cluster = LOCAL.model_copy(update={"cache_dir": str(here.folder / "ca che")})
        assert here.bash(here.write(case(), cluster)).returncode == 0
        assert here.calls()[1][1]["WARP_CACHE_PATH"] == f"{here.folder}/ca che/warp"
    with scene() as here:
        here.bash(here.write(case()), XDG_CACHE_HOME=str(here.folder / "xdg"))
        assert here.calls()[1][1]["WARP_CACHE_PATH"] == f"{here.folder}/xdg/paceline/warp"


# --------------------------------------------------------------------------------------------- how it comes out


@pytest.mark.parametrize(
    ("training", "status", "expected"),
    [
        ("0", "completed", 0),
        ("139", "completed", 0),  # the simulator crashed at exit, after all was recorded
        ("0", "failed", 1),
        ("7", "failed", 7),
        ("0", "", 1),  # the sentinel could not write
    ],
)
def test_exit_status_is_that_of_the_sentinel(training: str, status: str, expected: int) -> None:
    with scene() as here:
        done = here.bash(here.write(case()), STUB_EXIT=training, STUB_STATUS=status)
        assert done.returncode == expected
        assert here.arguments("sentinel") == [["--exit-code", training]]


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "signal"), (signal.SIGUSR1, "time_limit"), (2, "signal")])
def test_signals_end_the_training_by_term_and_write_the_sentinel_once(number: int, why: str) -> None:
    with scene() as here:
        run = here.write(case())
        process = subprocess.Popen(
            ["bash", run.job_sh],
            env=here.environment(STUB_SLEEP_S="60", STUB_STATUS="interrupted"),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started = Path(f"{here.log}.started")
        deadline = time.monotonic() + 30
        while not started.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)  # to the shell alone, as Slurm does with --signal=B:USR1
        output, _ = process.communicate(timeout=30)
        assert "got signal 15" in output
        assert process.returncode == 143
        assert here.arguments("sentinel") == [["--exit-code", "143", "--interrupted", why]]


def test_preflight_failures_say_why_and_reach_the_sentinel() -> None:
    with scene() as here:
        run = here.write(case())
        (here.study.code / "paceline").rmdir()
        done = here.bash(run, STUB_STATUS="failed")
        assert done.returncode == 1
        assert f"paceline: error: the study's copy of the code is missing: {here.study.code}" in done.stderr
        assert here.arguments("supervise") == []
        assert here.arguments("sentinel") == [["--exit-code", "1"]]
    with scene() as here:
        run = here.write(case())
        here.put("python", "#!/bin/sh\nexit 3\n")
        done = here.bash(run)
        assert done.returncode == 1
        assert "paceline: error: this Python does not run, or is older than 3.10" in done.stderr


@pytest.mark.parametrize(
    ("mask", "fine"), [("0,1", True), ("GPU-a,GPU-b,GPU-c", True), ("3", False), ("", False), (None, False)]
)
def test_gpus_are_counted_before_the_training_starts(mask: str | None, fine: bool) -> None:
    with scene() as here:
        run = here.write(case(2, device="cuda"))
        here.put("nvidia-smi", "#!/bin/sh\necho 'GPU 0: One (UUID: GPU-x)'\n")
        visible = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
        done = here.bash(run, STUB_STATUS="completed" if fine else "failed", **visible)
        assert (done.returncode == 0) == fine, done.stderr
        assert bool(here.arguments("supervise")) == fine
        if fine:
            assert here.calls()[1][1]["CUDA_VISIBLE_DEVICES"] == mask
        else:
            assert "GPUs are visible on" in done.stderr


@pytest.mark.parametrize("ended", [True, False])
def test_a_restarted_job_is_an_attempt_of_its_own(ended: bool) -> None:
    """What the start before left stays; if it could not say how it ended, its node is gone; the next one says so."""
    with scene() as here:
        run = here.write(case())
        old = ["rank-0000.jsonl", "case.json", "launch.json", *(["result.json"] if ended else [])]
        for name in old:
            (run.path / name).write_text("old")
        done = here.bash(run, SLURM_RESTART_COUNT="1")
        assert done.returncode == 0, done.stderr
        second = here.study.run(run.case_id, 2)
        for name in old:
            assert (run.path / name).read_text() == "old"
        copied = {name for name in ("case.json", "launch.json", "job.sh") if (second.path / name).exists()}
        assert copied == {"case.json", "launch.json", "job.sh"}
        assert "training ended" in second.train_log.read_text() and not run.train_log.exists()
        told = [argv for argv in here.arguments("sentinel") if "node_failure" in argv]
        assert len(told) == (0 if ended else 1)
        folders = [
            environment["PACELINE_RUN_DIR"] for argv, environment in here.calls() if "paceline.bench.sentinel" in argv
        ]
        assert folders == ([] if ended else [str(run.path)]) + [str(second.path)]
        assert here.bash(run, SLURM_RESTART_COUNT="2").returncode == 0
        assert [each.attempt for each in here.study.attempts(run.case_id)] == [1, 2, 3]


@pytest.mark.parametrize(("restarts", "requeued"), [(0, True), (1, True), (2, False)])
def test_requeue_is_asked_for_up_to_the_limit_of_attempts(restarts: int, requeued: bool) -> None:
    cluster = Cluster(name="s", scheduler="slurm", gpus_per_node=0, requeue=True, max_attempts=3)
    with scene() as here:
        run = here.write(case(), cluster)
        for attempt in range(2, restarts + 1):
            here.study.run(run.case_id, attempt).path.mkdir()
        marker = here.folder / "requeued"
        here.put("scontrol", f'#!/bin/sh\n[ "$1" = requeue ] && echo "$2" > "{marker}"\nexit 0\n')
        process = subprocess.Popen(
            ["bash", run.job_sh],
            env=here.environment(
                STUB_SLEEP_S="60", STUB_STATUS="interrupted", SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(restarts)
            ),
            stdout=subprocess.DEVNULL,
        )
        started = Path(f"{here.log}.started")
        deadline = time.monotonic() + 30
        while not started.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        process.wait(timeout=30)
        assert marker.exists() == requeued
        assert not requeued or marker.read_text() == "17\n"


# -------------------------------------------------------------------------------------------------- directives


def test_directives() -> None:
    cluster = Cluster(name="s", scheduler="slurm", gpus_per_node=8, mem_per_gpu_gb=20, cpus_per_gpu=6)
    lines = directives(case(8, device="cuda", num_nodes=2, gpu_type="l40"), cluster, 1441)
    for expected in ("--nodes=2", "--gpus-per-node=l40:4", "--cpus-per-task=24", "--mem=80G", "--time=24:01:00"):
        assert expected in lines
    assert "--no-requeue" in lines
    cpu = directives(case(4, threads_per_rank=3), cluster, 5)
    assert "--cpus-per-task=12" in cpu
    assert not any("gpu" in line or line.startswith("--mem") for line in cpu)
    assert directives(case(), LOCAL, 5) == []


def test_the_time_limit_of_the_study_wins() -> None:
    cluster = Cluster(name="s", scheduler="slurm", gpus_per_node=0)
    assert "#SBATCH --time=01:00:00\n" in render_job(case(), cluster, StudyDir("/s"), 1, "python", None)
    text = render_job(case(), cluster, StudyDir("/s"), 1, "python", None, time_limit_min=7)
    assert "#SBATCH --time=00:07:00\n" in text


def test_several_nodes_need_slurm() -> None:
    with pytest.raises(ClusterError, match="2 nodes need scheduler: slurm"):
        render_job(case(2, num_nodes=2), LOCAL, StudyDir("/s"), 1, "python", None)


def test_what_the_worker_reads_from_the_case_is_not_in_the_script() -> None:
    odd = case(overrides=("env.x=$(touch canary)",), task="x\ny; touch canary")
    text = render_job(odd, LOCAL, StudyDir("/s"), 1, "python", None)
    assert "env.x" not in text
    assert "\n#   training  x\\ny; touch canary, rsl_rl, cpu\n" in text
