"""What goes wrong on one machine, with the real launcher, job script, torchrun, supervisor, sentinel (docs/faults.md).

One study, one fault in the first attempt at each of its repeats; what a run survives happens together. Its training is
programs/small_training.py. After each fault: status and cause are right, stacks and evidence are there, the next
attempt completes, and the table of the report has both.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench.rundir import StudyDir, read_json

from tests.fault_scene import TOKEN, Site, attempts, check_table, read

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab, pytest.mark.timeout(900)]


@pytest.fixture
def make_site(paceline: Path, jobs_environment: Path, compiled: Path, tmp_path: Path) -> Callable[..., Site]:
    """Return a function that makes a Site; its folder may lie elsewhere."""

    def make(folder: Path | None = None, **profile: Any) -> Site:
        path = tmp_path / "here.yaml"
        assets = tmp_path / "assets"
        (assets / "Isaac").mkdir(parents=True, exist_ok=True)
        values = {"name": "here", "scheduler": "local", "python": str(jobs_environment), "asset_root": str(assets)}
        values |= {"cache_dir": str(compiled), **profile}
        path.write_text("schema: paceline.cluster/1\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in values.items()))
        environment = {**os.environ, "HF_TOKEN": TOKEN}
        return Site(paceline, folder or tmp_path / "study", path, environment)

    return make


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a real file system of that size."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Callable[[], None]]:
    """Make a control group with a memory limit; yield a function that moves the calling process into it."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/memory") / f"paceline-{os.getpid()}"
    group.mkdir()
    try:
        if unified:
            (group / "memory.max").write_text(str(limit_bytes))
            (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.limit_in_bytes").write_text(str(limit_bytes))

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        yield enter
    finally:
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()


STALL_S = 25
"""Longer than ranks take to start on a loaded machine."""

# Fault -> cause of the first attempt, None where the work was done in spite of it.
FAULTS = {
    "kill rank": "killed",
    "kill torchrun": "killed",
    "kill script": "lost",
    "truncated": "truncated",
    "overflow": "invalid_physics",
    "clock, secret, hang at exit": None,
    "long log": "error",  # at whose end stands a bug
}


def test_faults_of_a_run(make_site: Callable[..., Site], require: Callable[[str], None]) -> None:
    require("faketime")
    site = make_site()
    faults = {str(number): name for number, name in enumerate(FAULTS)}
    study = site.prepare(faults, repeats=len(FAULTS), exit_grace_s=5)
    start = time.monotonic()
    done = site.paceline("retry", site.folder)
    print(f"{time.monotonic() - start:.0f} s", done.stderr)
    assert done.returncode == 1, done.stderr

    bugs = {name for name, cause in FAULTS.items() if cause == "error"}
    states = {row["repeat"]: row for row in site.status()}
    for number, (name, cause) in enumerate(FAULTS.items()):
        made = attempts(study, number)
        run, first = made[0]
        context = f"{name}: {first}\n{read(run.train_log)[-3000:] if name != 'long log' else ''}"
        if cause is None:
            assert (first.status, len(made)) == ("completed", 1), context
            continue
        assert first.cause == (None if cause == "invalid_physics" else cause), context
        if name in bugs:
            assert len(made) == 1 and states[number]["state"] == "failed", "a bug is never repeated"
            assert states[number]["advice"] and "Error" in states[number]["message"]
        else:
            assert [result.status for _, result in made][1:] == ["completed"], context
            assert states[number]["state"] == "completed" and states[number]["attempt"] == 2
            told = json.loads(made[1][0].attempt_json.read_text())
            assert (told["after"], told["cause"]) == (1, cause)
    names = list(FAULTS)

    survived = names.index("clock, secret, hang at exit")
    run, result = attempts(study, survived)[0]
    assert "hang at exit: ending them" in read(run.train_log)
    # The clock of rank 0 went back by an hour while it ran; no time in the records did.
    assert (run.path / "clock-0").read_text() == "-3600"
    assert 0 < result.end_unix_s - result.start_unix_s < 600

    run, result = attempts(study, names.index("overflow"))[0]
    assert result.status == "completed" and "at least 200000" in result.extra["invalid_physics"]
    again, _ = attempts(study, names.index("overflow"))[1]
    assert json.loads(again.attempt_json.read_text())["overrides"] == [
        "env.sim.physics.gpu_max_rigid_patch_count=262144"
    ]

    # 5 GB of log: the overflow at its beginning and the exception at its end were both found, in little time.
    run, result = attempts(study, names.index("long log"))[0]
    assert run.train_log.stat().st_size > 5_000_000_000
    assert result.message is not None and "at the end of a long log" in result.message
    assert result.extra["overflows"][0]["needed"] == 200_000
    last = max(path.stat().st_mtime for path in run.path.glob("rank-*.jsonl"))
    assert run.result_json.stat().st_mtime - last < 90

    # The training printed its environment: what has the name of a credential is nowhere in the study folder.
    grep = subprocess.run(["grep", "-rlaF", TOKEN, site.folder], capture_output=True, text=True, check=False)
    assert grep.stdout == ""
    run, _ = attempts(study, survived)[0]
    assert f"'HF_TOKEN': '{'*' * len(TOKEN)}'" in read(run.train_log)

    # The table has every attempt with its cause, and numbers from what completed.
    with (site.folder / "report" / "runs.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "strong"]
    failed = sorted(cause for cause in FAULTS.values() if cause not in (None, "invalid_physics"))
    assert sorted(row["cause"] for row in rows if row["cause"]) == failed
    assert sum(row["counts"] == "True" for row in rows) == len(FAULTS) - len(bugs)
    assert sum("Patch buffer overflow" in row["note"] for row in rows) == 2  # the overflow's, and the long log's
    page = read(site.folder / "report" / "report.md")
    assert "killed" in page and "truncated" in page

    # A sentinel of which only half is there is written again from the records; nothing runs once more.
    whole = run.result_json.read_bytes()
    run.result_json.write_bytes(whole[: len(whole) // 2])
    assert site.status()[survived]["cause"] == "record"
    watched = site.paceline("watch", site.folder)
    assert watched.returncode == 1, watched.stderr
    assert site.status()[survived]["state"] == "completed"
    assert read_json(run.result_json)["status"] == "completed"
    assert len(attempts(study, survived)) == 1

    # Asked for by name, a bug is tried again, and this one is gone.
    refused = site.paceline("retry", site.folder)
    assert refused.returncode == 1 and refused.stderr.count("--all repeats it all the same") == len(bugs)
    everything = site.paceline("retry", site.folder, "--all")
    assert everything.returncode == 0, everything.stderr
    assert {row["state"] for row in site.status()} == {"completed"}
    check_table(study)


def hang(site: Site, study: StudyDir, fault: str) -> None:
    """Check what is kept of a run that hung: its cause, and where each rank was."""
    run, first = attempts(study, 0)[0]
    assert (first.status, first.cause) == ("failed", "stalled"), read(run.train_log)
    (stacks,) = run.path.glob("stacks-*.txt")
    text = read(stacks)
    assert "==== rank 0" in text and "==== rank 1" in text
    # Two ranks, an hour's time limit: what is left of it was saved.
    assert 1.5 < first.extra["watchdog"]["saved_rank_hours"] < 2
    assert "the watchdog ended 1 hung run and saved 1." in site.paceline("status", site.folder).stdout
    assert "stuck_in_step" in text and ("all_reduce" in text) == (fault == "hang in all-reduce")


def test_hang_in_all_reduce(make_site: Callable[..., Site]) -> None:
    """One rank hangs, the other waits for it: both are ended, where they were is kept, the next attempt completes."""
    site = make_site()
    study = site.prepare({"0": "hang in all-reduce"}, repeats=1, stall_s=STALL_S)
    done = site.paceline("retry", site.folder)
    assert done.returncode == 0, done.stderr
    hang(site, study, "hang in all-reduce")
    assert check_table(study)["strong"] == [("failed", "stalled"), ("completed", None)]
    assert site.status()[0]["state"] == "completed"


def test_memory_that_ends(make_site: Callable[..., Site]) -> None:
    """The kernel kills a rank for memory: told from the control group, since the rank itself can say nothing."""
    site = make_site()
    study = site.prepare({"0": "out of memory"}, repeats=1)
    with memory_group(1 << 30) as enter:
        done = subprocess.run(
            [site.command, "retry", site.folder], env=site.environment, capture_output=True, text=True, timeout=300,
            preexec_fn=enter, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
    ((run, result),) = attempts(study, 0)
    assert (result.status, result.cause) == ("failed", "oom_host"), read(run.train_log)[-2000:]
    assert any("for memory" in line for line in result.extra["failure"]["evidence"])
    assert site.paceline("retry", site.folder).returncode == 0
    assert check_table(study)["strong"] == [("failed", "oom_host"), ("completed", None)]


def test_a_disk_that_is_full(make_site: Callable[..., Site], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        site = make_site(folder=disk / "study")
        study = site.prepare({"0": "disk full"}, repeats=1)
        done = site.paceline("retry", site.folder)
        assert done.returncode == 1, done.stderr
        ((run, result),) = attempts(study, 0)
        assert (result.status, result.cause) == ("failed", "disk_full"), read(run.train_log)[-2000:]
        assert "make room" in str(site.status()[0]["advice"])
        (run.path / "checkpoint.pt").unlink()
        again = site.paceline("retry", site.folder)
        assert again.returncode == 0, again.stderr
        assert check_table(study)["strong"] == [("failed", "disk_full"), ("completed", None)]


def test_a_folder_that_becomes_read_only(make_site: Callable[..., Site], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        site = make_site(folder=disk)
        study = site.prepare({"0": "read-only"}, repeats=1)
        done = site.paceline("retry", site.folder)
        assert done.returncode == 2, done.stderr
        assert "Read-only file system" in done.stderr and len(done.stderr.strip().splitlines()[-1]) < 400
        (row,) = site.status()
        assert (row["state"], row["cause"]) == ("lost", "lost")
        subprocess.run(["umount", "--lazy", disk], check=True)  # the read-only mount over it
        again = site.paceline("retry", site.folder)
        assert again.returncode == 0, again.stderr
        (_, first), (_, second) = attempts(study, 0)
        assert (first.status, first.cause, second.status) == ("failed", "read_only", "completed")
        check_table(study)
        assert site.status()[0]["state"] == "completed"


def test_a_killed_driver_and_a_second_one(make_site: Callable[..., Site]) -> None:
    """`paceline run` is killed: its run goes on, a second `run` says so, a watcher sees it end, nothing is repeated."""
    site = make_site()
    study = site.prepare({"0": "hang in step"}, repeats=1, stall_s=STALL_S)
    first = site.start("retry", site.folder)
    deadline = time.monotonic() + 120

    def recorded() -> bool:
        return any(read(path).count("\n") > 2 for path in site.folder.glob("runs/*/attempt-1/rank-0001.jsonl"))

    while not recorded():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.communicate()
    refused = site.paceline("retry", site.folder)
    assert refused.returncode == 2 and "still going" in refused.stderr, refused.stderr
    watched = site.paceline("watch", site.folder)
    assert watched.returncode == 1, watched.stderr
    assert len(attempts(study, 0)) == 1
    hang(site, study, "hang in step")
    assert site.paceline("retry", site.folder).returncode == 0
    assert check_table(study)["strong"] == [("failed", "stalled"), ("completed", None)]
    assert os.getpgid(os.getpid()) and signal.SIGKILL  # nothing of this test is left behind
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if _belongs(pid, site.folder)]


def _belongs(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return f"PACELINE_RUN_DIR={folder}".encode() in (process / "environ").read_bytes()
    return False


def test_a_damaged_cache(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """Compiled modules in the cache are cut short: the next attempt compiles for itself, whatever is in there."""
    site = make_site(cache_dir=str(tmp_path / "cache"))
    study = site.prepare({}, repeats=1)
    done = site.paceline("retry", site.folder)
    assert done.returncode == 0, done.stderr
    compiled = list((tmp_path / "cache" / "bytecode").rglob("supervise*.pyc"))
    compiled += list((tmp_path / "cache" / "bytecode").rglob("rankfile*.pyc"))
    assert compiled
    for path in compiled:
        path.write_bytes(path.read_bytes()[:16] + b"\xe3damaged")
    more = site.prepare({}, repeats=2)
    again = site.paceline("retry", site.folder)
    assert again.returncode == 0, again.stderr
    made = attempts(more, 1)
    assert [(result.status, result.cause) for _, result in made] == [("failed", "cache"), ("completed", None)], read(
        made[0][0].train_log
    )
    assert (site.folder / "cache" / "bytecode").is_dir() and len(attempts(study, 0)) == 1
    check_table(more)
