"""The supervisor, on real processes: hanging exits, stalls, signals, ranks in sessions of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from paceline.bench import processes, sentinel, stacks, supervise, watchdog
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, write_json
from paceline.bench.supervise import Limits, Watch, verdict

ROOT = Path(__file__).resolve().parents[2]

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
END = json.dumps({"type": "end", "status": "completed"}) + "\n"

# Like torchrun: starts its rank in a session of its own, waits for it. `{body}` is what the rank does.
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", {rank!r}], start_new_session=True)
print("rank", rank.pid, flush=True)
sys.exit(rank.wait() and 1)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = StudyDir(tmp_path / "study").run(CASE.case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, CASE.to_json())
    return run


def start(run: RunDir, rank: str, *options: str) -> subprocess.Popen[str]:
    """Start a supervisor over a launcher with one rank."""
    launcher = LAUNCHER.format(rank=f"record = {str(run.rank_jsonl(0))!r}\nEND = {END!r}\n{textwrap.dedent(rank)}")
    return subprocess.Popen(
        [sys.executable, "-m", "paceline.bench.supervise", *options, "--", sys.executable, "-c", launcher],
        env={**os.environ, "PACELINE_RUN_DIR": str(run.path)},
        cwd=run.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 40) -> tuple[int, str, int | None]:
    """Return exit status, what was said, and the rank's process id."""
    out, err = process.communicate(timeout=timeout_s)
    ranks = [int(line.split()[1]) for line in out.splitlines() if line.startswith("rank ")]
    return process.returncode, err, ranks[0] if ranks else None


def alive(pid: int | None) -> bool:
    return pid in processes.parents()


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_that_ends_is_left_alone(run: RunDir, status: int) -> None:
    code, said, _ = finished(start(run, f"import sys; open(record, 'w').write(END); sys.exit({status})"))
    assert code == status
    assert said == ""
    assert watchdog.read(run) is None


def test_hanging_at_exit_is_ended(run: RunDir) -> None:
    hangs = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(record, "w").write(END)
    time.sleep(600)
    """
    code, said, rank = finished(start(run, hangs, "--exit-grace-s", "1", "--kill-s", "1"))
    assert code != 0
    assert "the processes hang at exit: ending them" in said
    assert len(said.splitlines()) == 1
    assert rank is not None and not alive(rank)


def test_a_stall_is_ended(run: RunDir) -> None:
    stalls = """
    import time
    stream = open(record, "w")
    for _ in range(3):
        time.sleep(0.5)
        print("[]", file=stream, flush=True)
    time.sleep(600)
    """
    code, said, rank = finished(start(run, stalls, "--stall-s", "3", "--left-s", "3600"))
    assert code != 0
    assert "no rank has recorded anything for" in said
    assert not alive(rank)
    ended = watchdog.read(run)
    assert ended is not None and ended.reason.startswith("no rank has recorded anything for")
    assert 3540 < ended.saved_s < 3598, "the rest of the hour"
    count, hours = watchdog.saved([run, RunDir(run.path.with_name("attempt-2"))])
    assert count == 1 and hours == pytest.approx(ended.saved_s / 3600)
    result = sentinel.judge(run, CASE)
    assert result.extra["watchdog"] == {"reason": ended.reason, "saved_rank_hours": pytest.approx(hours, abs=1e-4)}


def test_term_reaches_the_ranks_and_usr1_does_not(run: RunDir) -> None:
    waits = """
    import pathlib, signal, sys, time
    def stop(number, frame):
        pathlib.Path(record).with_name(f"got-{signal.Signals(number).name}").touch()
        if number == signal.SIGTERM:
            sys.exit(3)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    open(record, "w").write("[]\\n")
    time.sleep(600)
    """
    process = start(run, waits)
    deadline = time.monotonic() + 20
    while not run.rank_jsonl(0).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, said, rank = finished(process)
    assert code != 0
    assert "got SIGTERM" in said
    assert (run.path / "got-SIGTERM").exists()
    assert not (run.path / "got-SIGUSR1").exists()
    assert not alive(rank)


def test_orphans_of_a_killed_launcher_are_ended(run: RunDir) -> None:
    orphaned = """
    import os, signal, time
    os.kill(os.getppid(), signal.SIGKILL)   # the launcher dies first
    time.sleep(600)
    """
    code, _, _ = finished(start(run, orphaned))
    assert code == 128 + signal.SIGKILL
    left = subprocess.run(["pgrep", "-f", str(run.rank_jsonl(0))], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_killed_supervisor_takes_its_launcher_with_it(run: RunDir) -> None:
    process = start(run, "import time; open(record, 'w').write('[]'); time.sleep(600)")
    deadline = time.monotonic() + 20
    while not run.rank_jsonl(0).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    below = processes.descendants(process.pid)
    launchers = {pid for pid, parent in processes.parents().items() if parent == process.pid}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while launchers & set(processes.parents()) and time.monotonic() < deadline:
        time.sleep(0.05)
    gone = launchers - set(processes.parents())
    for pid in below:  # this launcher, unlike torchrun, leaves its rank behind
        processes.send(pid, signal.SIGKILL)
    process.communicate()
    assert gone == launchers


def test_a_command_is_needed(run: RunDir) -> None:
    with pytest.raises(SystemExit) as end:
        supervise.main([])
    assert end.value.code == 2


HUNG_RANK = """
import sys, time
sys.path.insert(0, {root!r})
from paceline.bench import stacks
stacks.register()
def stuck_in_step():
    time.sleep(600)
open(record, "w").write("[]\\n")
stuck_in_step()
"""


@pytest.mark.parametrize("by", ["py-spy", "fault handler"])
def test_stacks_of_hung_ranks_are_kept(run: RunDir, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """By py-spy where there is one; by the ranks themselves where it is missing or not allowed to look."""
    if by == "py-spy":
        assert stacks.py_spy() is not None, "py-spy is missing: run `make dev`"
    else:
        monkeypatch.setenv("PACELINE_PY_SPY", "off")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    code, said, rank = finished(start(run, HUNG_RANK.format(root=str(ROOT)), "--stall-s", "2", "--kill-s", "1"))
    assert code != 0 and not alive(rank)
    assert "where they were: stacks-node7.txt" in said
    kept = run.stacks_txt("node7").read_text()
    assert f"==== rank 1, process {rank} ====" in kept
    assert "stuck_in_step" in kept
    assert ("Thread 0x" in kept.replace("Current thread", "Thread")) == (by == "fault handler"), kept


def test_a_run_that_did_not_hang_keeps_no_stacks(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    rank = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from paceline.bench import stacks; stacks.register()"
    assert finished(start(run, rank))[0] == 0
    assert not run.stacks_txt("node7").exists()


def test_patience_follows_the_iterations(run: RunDir) -> None:
    """A rank alone is noticed; how long it may be silent comes from its own iterations, once there are some."""
    limits = Limits(stall_s=1800)
    watch = Watch(run, [0, 1], 0.0)
    now = 100.0  # compiling
    for row in range(8):
        for rank in (0, 1):
            with run.rank_jsonl(rank).open("a") as stream:
                stream.write("[]\n")
        watch.look(now)
        now += 4.0 if row % 2 else 6.0
    assert watch.longest_gap_s == 6.0
    last = now - 4.0
    assert verdict(watch, limits, last + 599) is None
    assert verdict(watch, limits, last + 600) == "no rank has recorded anything for 600 s"
    assert verdict(watch, Limits(stall_s=400), last + 400) is not None, "never more patient than told"
    with run.rank_jsonl(0).open("a") as stream:
        stream.write("[]\n")
    watch.look(last + 5)
    assert verdict(watch, limits, last + 600) == "rank 1 has recorded nothing for 600 s"
    with run.rank_jsonl(0).open("a") as stream:
        stream.write(END)
    watch.look(last + 6)
    assert verdict(watch, limits, last + 5000) == "rank 1 has recorded nothing for 5000 s"


def test_short_iterations_get_five_minutes(run: RunDir) -> None:
    watch = Watch(run, [0], 0.0)
    for now in range(20):
        with run.rank_jsonl(0).open("a") as stream:
            stream.write("[]\n")
        watch.look(float(now))
    assert verdict(watch, Limits(), 19.0 + 299) is None
    assert verdict(watch, Limits(), 19.0 + 300) is not None


def test_verdict(run: RunDir) -> None:
    limits = Limits(exit_grace_s=60, stall_s=1800)
    watch = Watch(run, [0, 1], 0.0)
    watch.look(100.0)
    assert verdict(watch, limits, 1799.0) is None
    assert verdict(watch, limits, 1800.0) == "no rank has recorded anything for 1800 s"
    assert verdict(watch, Limits(exit_grace_s=60, stall_s=0), 1e9) is None
    run.rank_jsonl(0).write_text("[]\n" + END)
    watch.look(2000.0)
    assert verdict(watch, limits, 2000.0) == "rank 1 has recorded nothing for 2000 s" and watch.ended_at is None
    run.rank_jsonl(1).write_text("[]\n" + END[:-1])  # the end is not whole yet
    watch.look(2100.0)
    assert watch.ended_at is None
    run.rank_jsonl(1).write_text("[]\n" + END)
    watch.look(2200.0)
    assert verdict(watch, limits, 2259.0) is None
    assert verdict(watch, limits, 2260.0) == "all ranks ended 60 s ago, but the processes hang at exit"
    assert verdict(watch, Limits(exit_grace_s=0, stall_s=1800), 1e9) is None
