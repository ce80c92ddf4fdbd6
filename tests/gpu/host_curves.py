"""Strong and weak scaling of one whole host, every world size up to its GPUs, within a fixed time.

    .venv/bin/python tests/gpu/host_curves.py FOLDER [--minutes 9] [--cluster PROFILE] [--alone] [--gpus N]
                                              [--study FILE ...] [--set KEY=VALUE ...]

For a host that is had for minutes only, such as one with eight GPUs: strong scaling of Isaac-Ant-Direct (rsl_rl, 16,384
environments in all) and weak scaling of Isaac-Cartpole-Direct (rl_games, 4,096 per GPU), three repeats interleaved,
phases and energy on. `--study` measures other studies in the same way, tuning studies included, each at the world sizes
that it states. It lies with what needs GPUs, and is no test: it makes records for docs/findings.yaml.

One run after another would take 24 runs of half a minute. Instead, runs of the smaller world sizes share the host, each
on GPUs and cores of its own (1 + 2 + 4 of 8 GPUs at once, then 8), started together so that they measure together:

    repeat 0   Ant 8 | Ant 4+2+1 | Cartpole 8 | Cartpole 4+2+1        repeat 1   Cartpole 4+2+1 | Cartpole 8 | ...

So the host is about as busy in every run, and every GPU has the same number of cores at every world size; but a small
run has fewer cores than it would have alone, and neighbours. A batch starts as soon as the one before it has measured
its last iteration, while its processes still end. `--alone` runs one after another with the same cores;
comparing the two folders (`paceline compare A B`) says what sharing costs. FOLDER/batches.json says what ran beside
what.

No batch starts that would not end in time, and what runs at the end of the time is stopped: repeats come outermost, so
what there is stays a whole, shorter study. Called again, it goes on with what is missing. FOLDER/records holds copies
without code, scripts and logs, with site paths left out, ready to be kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench import affinity, launch, local, snapshot, yamlfile
from paceline.bench import cluster as clusters
from paceline.bench.display import case_label
from paceline.bench.errors import LaunchError, PacelineError, StudyError
from paceline.bench.launch import JobSide, OpenStudy
from paceline.bench.lock import StudyLock
from paceline.bench.record import Case
from paceline.bench.render import render_job
from paceline.bench.rundir import write_json
from paceline.bench.status import CaseStatus
from paceline.bench.study import parse_study, resolve

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script
from tests.gpu.kept_records import keep_records

STUDIES = {
    "strong_ant": """
schema: paceline.study/1
name: strong_ant
kind: strong
trainer: rsl_rl
on_gpu: {task: Isaac-Ant-Direct, num_envs: 16384, iterations: 24, warmup_iterations: 6}
on_cpu: {task: Isaac-Cartpole-Direct, num_envs: 64, num_minibatches: 4, iterations: 8, warmup_iterations: 2}
""",
    "weak_cartpole": """
schema: paceline.study/1
name: weak_cartpole
kind: weak
trainer: rl_games
on_gpu: {task: Isaac-Cartpole-Direct, num_envs_per_rank: 4096, iterations: 24, warmup_iterations: 6}
on_cpu: {task: Isaac-Cartpole-Direct, num_envs_per_rank: 32, num_minibatches: 4, iterations: 8, warmup_iterations: 2}
""",
}
FIRST_GUESS_S = 45.0  # how long a batch takes, before one was seen
MARGIN = 1.1
STOP_S = 20.0  # what is running gets so long to write its sentinel when time is up
POLL_S = 0.5


@dataclass(frozen=True)
class Place:
    """GPUs (CPU ranks: places) and cores of one run."""

    gpus: tuple[int, ...]
    cores: frozenset[int]


@dataclass
class Host:
    """What the runs share."""

    gpus: tuple[int, ...]
    """Indices that CUDA knows, empty on CPU."""
    cores: tuple[frozenset[int], ...]
    """Cores of each GPU, by position."""
    deadline: float
    longest_s: dict[str, float] = field(default_factory=dict)
    """Longest batch of each study so far."""

    @property
    def size(self) -> int:
        """Number of GPUs, or of places for CPU ranks."""
        return len(self.cores)

    def place(self, first: int, count: int) -> Place:
        """Return ``count`` neighbouring GPUs and their cores."""
        cores = frozenset().union(*self.cores[first : first + count])
        return Place(self.gpus[first : first + count], cores)

    def time_for(self, study: str) -> bool:
        """Return whether a batch of a study that starts now will have measured before what still runs is stopped."""
        return time.monotonic() + MARGIN * self.longest_s.get(study, FIRST_GUESS_S) <= self.deadline - STOP_S


def pack(cases: Sequence[Case], size: int, alone: bool) -> list[list[Case]]:
    """Return the cases of one repeat in batches that fit on a host of ``size`` GPUs, largest first."""
    batches: list[list[Case]] = []
    for case in sorted(cases, key=lambda case: -case.world_size):
        room = (batch for batch in batches if sum(c.world_size for c in batch) + case.world_size <= size)
        batch = None if alone else next(room, None)
        if batch is None:
            batches.append([case])
        else:
            batch.append(case)
    return batches


def order(studies: Mapping[str, Sequence[Case]], size: int, alone: bool) -> list[tuple[str, int, list[Case]]]:
    """Return the batches of all studies (study, repeat, cases): repeats outermost, the order within turning round."""
    repeats = sorted({case.repeat for cases in studies.values() for case in cases})
    found = []
    for repeat in repeats:
        batches = [
            (name, repeat, batch)
            for name, cases in studies.items()
            for batch in pack([case for case in cases if case.repeat == repeat], size, alone)
        ]
        found += batches if repeat % 2 == 0 else batches[::-1]
    return found


def places(batch: Sequence[Case], host: Host, repeat: int) -> list[Place]:
    """Return where each run of a batch goes: next to each other, from the other end in every second repeat.

    Variants of one world size stay in the order of the plan, which rotates them from repeat to repeat: each of them
    comes to each place.
    """
    found, first = [], 0
    turned = repeat % 2 == 1 and len({case.world_size for case in batch}) > 1
    for case in batch:
        start = host.size - first - case.world_size if turned else first
        found.append(host.place(start, case.world_size))
        first += case.world_size
    return found


def find_host(gpus: int | None, minutes: float, start: float) -> tuple[Host, str]:
    """Return the host and the device: its GPUs, or places for CPU ranks where it has none."""
    visible = local.visible_gpus()
    device = "cuda" if visible else "cpu"
    count = gpus or visible or 2
    if visible and count > visible:
        raise LaunchError(f"--gpus {count}: {visible} GPUs are visible")
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = mask.split(",") if mask else [str(index) for index in range(count)]
    if not all(name.strip().isdigit() for name in names):
        raise LaunchError("CUDA_VISIBLE_DEVICES must hold indices")
    allowed, topology = frozenset(os.sched_getaffinity(0)), affinity.read_topology()
    nodes = affinity.gpu_numa_nodes(count) if visible else [None] * count
    cores = tuple(affinity.share("numa", index, allowed, topology, nodes).cores for index in range(count))
    taken = tuple(int(name) for name in names[:count]) if visible else ()
    return Host(taken, cores, start + 60 * minutes), device


def open_studies(
    folder: Path,
    host: Host,
    device: str,
    cluster: clusters.Cluster,
    texts: Mapping[str, str],
    settings: Mapping[str, str],
) -> dict[str, OpenStudy]:
    """Make or reopen the study folders: a study states its world sizes, or gets 1, 2, 4, ... up to the whole host."""
    sizes = ",".join(str(2**k) for k in range(host.size.bit_length()) if 2**k <= host.size)
    opened = {}
    for name, text in texts.items():
        given = {"device": device, **settings}
        document = yamlfile.parse(text, name, StudyError)
        study = parse_study(document, given)
        if study.stated().get("world_sizes", "auto") == "auto":
            study = parse_study(document, {"world_sizes": sizes, **given})
        resolved = resolve(study, cluster, host.size if device == "cuda" else 0)
        opened[name] = launch.create(folder / name, resolved, cluster)
        snapshot.take(opened[name].directory)
    return opened


def start(opened: OpenStudy, case: Case, place: Place, side: JobSide) -> local.LocalRun:
    """Start the next attempt at a case in its place."""
    attempts = opened.directory.attempts(case.case_id)
    run = opened.directory.run(case.case_id, attempts[-1].attempt + 1 if attempts else 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    script = render_job(case, opened.cluster, opened.directory, run.attempt, side.python, side.asset_root)
    run.job_sh.write_text(script, encoding="utf-8")
    return local.LocalRun(run, place.gpus or None, place.cores)


def has_measured(run: local.LocalRun, world_size: int) -> bool:
    """Return whether all ranks of a run have written the end of their records, or the run has ended without."""
    if run.poll() is not None:
        return True
    files = run.run.rank_files()
    return len(files) == world_size and all(b'\n{"type":"end"' in _tail(path) for path in files)


def _tail(path: Path, count: int = 4096) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - count, 0))
        return stream.read()


class Batch:
    """Cases that run side by side, from now on."""

    def __init__(self, cases: Sequence[tuple[OpenStudy, Case, Place]], host: Host, side: JobSide) -> None:
        self.cases = tuple(cases)
        self._host = host
        self._begin_unix_s, self._begin = time.time(), time.monotonic()
        self._took_s = 0.0
        self._running = [(start(opened, case, place, side), case.world_size) for opened, case, place in cases]

    def wait(self, to_the_end: bool) -> float:
        """Wait until all have measured, or have ended, or the time is up; what runs then is stopped.

        Returns the seconds from the start until all had measured.
        """
        stop_at = self._host.deadline - STOP_S
        while self._left(to_the_end) and time.monotonic() < stop_at:
            time.sleep(POLL_S)
        self._took_s = self._took_s or time.monotonic() - self._begin
        if self._left(to_the_end):
            self.stop()
        return self._took_s

    def _left(self, to_the_end: bool) -> bool:
        if to_the_end:
            return any(run.poll() is None for run, _ in self._running)
        return not all(has_measured(run, size) for run, size in self._running)

    def stop(self) -> None:
        """Stop what still runs."""
        late = [run for run, _ in self._running if run.poll() is None]
        with ThreadPoolExecutor(max(len(late), 1)) as pool:
            list(pool.map(lambda run: run.stop(STOP_S), late))

    def facts(self) -> dict[str, Any]:
        """Return what ran where and when, for batches.json."""
        return {
            "start_unix_s": self._begin_unix_s,
            "end_unix_s": self._begin_unix_s + self._took_s,
            "runs": [
                {"case_id": case.case_id, "world_size": case.world_size, "repeat": case.repeat}
                | {"gpus": list(place.gpus), "cores": sorted(place.cores), "study": opened.directory.path.name}
                for opened, case, place in self.cases
            ],
        }


def drive(opened: dict[str, OpenStudy], host: Host, side: JobSide, alone: bool, folder: Path) -> bool:
    """Run all that is missing as far as the time goes; return whether everything completed."""
    done: list[dict[str, Any]] = []
    ending: Batch | None = None

    def measure(cases: Sequence[tuple[OpenStudy, Case, Place]], what: str) -> float:
        nonlocal ending
        batch, before = Batch(cases, host, side), ending
        ending = batch
        if before is not None:
            before.wait(to_the_end=True)
        took = batch.wait(to_the_end=False)
        done.append(batch.facts())
        write_json(folder / "batches.json", {"schema": "paceline.batches/1", "alone": alone, "batches": done})
        say(host, f"{what} ({took:.0f} s)")
        return took

    warm = [(study, study.plan.warmup) for study in opened.values() if not _warm(study) and study.plan.warmup]
    try:
        if warm:
            ready = [(study, case, host.place(index % host.size, 1)) for index, (study, case) in enumerate(warm)]
            measure(ready, "warm-up, which fills the kernel caches")
        todo = {name: [s.case for s in _missing(study)] for name, study in opened.items()}
        for name, repeat, cases in order(todo, host.size, alone):
            ranks = " + ".join(str(case.world_size) for case in cases)
            if not host.time_for(name):
                say(host, f"{name}, repeat {repeat + 1}, ranks {ranks}: left out, no time for it")
                continue
            placed = zip(cases, places(cases, host, repeat), strict=True)
            took = measure([(opened[name], *pair) for pair in placed], f"{name}, repeat {repeat + 1}, ranks {ranks}")
            host.longest_s[name] = max(host.longest_s.get(name, 0.0), took)
        if ending is not None:
            ending.wait(to_the_end=True)
    finally:
        if ending is not None:
            ending.stop()
    missing = [status for study in opened.values() for status in _missing(study)]
    for status in missing:
        if status.state != "missing":
            say(host, f"{case_label(status)}: {status.state}")
    if missing:
        say(host, f"{len(missing)} runs are missing; called again, this goes on with them")
    return not missing


def _warm(study: OpenStudy) -> bool:
    return any(status.done for status in study.status() if status.case.kind == "warmup")


def _missing(study: OpenStudy) -> list[CaseStatus]:
    return [status for status in study.status() if not status.done and status.case.kind != "warmup"]


def report(study: OpenStudy) -> None:
    """Print the scaling table of a study, if any run of it completed."""
    from paceline.analysis import load
    from paceline.analysis import report as reports

    if any(status.done and status.case.kind != "warmup" for status in study.status()):
        analysis = reports.Analysis(load.load_study(study.directory.path))
        reports.write_analysis(analysis)
        print(reports.terminal_table(analysis, 160), flush=True)


def say(host: Host, text: str) -> None:
    """Print a line with the seconds that are left."""
    print(f"[{max(host.deadline - time.monotonic(), 0):5.0f} s left] {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies; exit code 0 if everything completed, 1 if runs are missing, 2 if it cannot be done."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the studies and their records go")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything (default %(default)s)")
    parser.add_argument("--gpus", type=int, help="how many to use (default: all visible; without any: 2 CPU ranks)")
    parser.add_argument("--repeats", type=int, help="default: 3, or what a study states")
    parser.add_argument("--study", type=Path, action="append", metavar="FILE", help="in the place of the two curves")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all studies")
    parser.add_argument("--cluster", default="local", help="a profile with scheduler: local (python, asset_root, ...)")
    parser.add_argument(
        "--alone", action="store_true", help="one run at a time, with the cores that it would have beside others"
    )
    options = parser.parse_args(arguments)
    try:
        cluster = clusters.load_cluster(options.cluster)
        if cluster.scheduler != "local":
            raise LaunchError(f"cluster {cluster.name!r}: a profile with scheduler: local is needed")
        host, device = find_host(options.gpus, options.minutes, begin)
        side = launch.job_side(cluster, lambda text: print(text, flush=True))
        settings = dict(text.partition("=")[::2] for text in options.set)
        if options.repeats:
            settings["repeats"] = str(options.repeats)
        texts = {path.stem: path.read_text(encoding="utf-8") for path in options.study or ()} or STUDIES
        opened = open_studies(options.folder.absolute(), host, device, cluster, texts, settings)
        with ExitStack() as locks:
            for study in opened.values():
                locks.enter_context(StudyLock(study.directory))
            try:
                complete = drive(opened, host, side, options.alone, options.folder)
            finally:
                for name, study in opened.items():
                    keep_records(study, options.folder / "records" / name)
            for study in opened.values():
                report(study)
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        return 2
    print(f"{time.monotonic() - begin:.0f} s in all; records: {options.folder / 'records'}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
