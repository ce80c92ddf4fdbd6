"""What each run of a sweep turned out to be: from its folder, kept in sweep.json so that logs may be thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from paceline.bench.cluster import Cluster
from paceline.bench.errors import RecordError
from paceline.bench.overflow import LogFindings, Overflow, read_log
from paceline.bench.plan import Plan, warmup_case
from paceline.bench.record import Case, Result, require_schema
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json
from paceline.bench.study import Study
from paceline.bench.sweep import Outcome, Point, Stop, Verdict, case_of, largest_valid, next_point

SWEEP_SCHEMA = "paceline.sweep/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One run of a sweep: an attempt at a case, and what became of it."""

    case: Case
    attempt: int
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """Return the entry as sweep.json has it."""
        point, outcome = self.outcome.point, self.outcome
        return {
            "case_id": self.case.case_id,
            "attempt": self.attempt,
            "num_envs_per_rank": point.num_envs_per_rank,
            "repeat": point.repeat,
            "buffer_sizes": dict(point.sizes),
            "reason": point.why,
            "verdict": outcome.verdict,
            "why": outcome.why,
            "wall_s": outcome.wall_s,
            "overflows": [asdict(overflow) for overflow in outcome.overflows],
        }


class Ledger:
    """The runs of one sweep. Reads each run's log once; later from sweep.json."""

    def __init__(self, directory: StudyDir, study: Study, cluster: Cluster) -> None:
        self._directory = directory
        self._study = study
        self._cluster = cluster
        self._kept = _read(directory)
        self.retried: set[str] = set()
        """Cases that were tried again in this session after they had failed for no reason of their own."""

    def replay(self, again: bool = False) -> tuple[list[Entry], Point | Stop]:
        """Return what has run, in the order of the sweep, and what comes next.

        Args:
            again: Runs that failed for a reason that another run may not have (a crash, a node, a time limit) are to
                run again, once a session; otherwise they end the sweep.
        """
        entries: list[Entry] = []
        while True:
            step = next_point(self._study, [entry.outcome for entry in entries])
            if isinstance(step, Stop):
                return entries, step
            case = case_of(self._study, self._cluster, step)
            entry = self._entry(case, step)
            if entry is None:
                return entries, step
            if again and entry.outcome.verdict in ("failed", "time") and case.case_id not in self.retried:
                return entries, step
            entries.append(entry)

    def write(self, entries: Sequence[Entry], ended: Stop | None) -> None:
        """Write sweep.json."""
        outcomes = [entry.outcome for entry in entries]
        data = {
            "schema": SWEEP_SCHEMA,
            "ended_by": ended.by if ended else None,
            "ended_why": ended.why if ended else None,
            "largest_valid_num_envs_per_rank": largest_valid(outcomes),
            "runs": [entry.to_json() for entry in entries],
        }
        write_json(self._directory.sweep_json, data)
        self._kept = _index(data)

    def plan(self) -> Plan:
        """Return the plan of what has run and what comes next: a sweep's cases follow from its results."""
        entries, following = self.replay()
        cases = [entry.case for entry in entries]
        if isinstance(following, Point):
            cases.append(case_of(self._study, self._cluster, following))
        warmup = warmup_case(self._study, self._cluster)
        return Plan(warmup=warmup, cases=tuple(dict.fromkeys(cases)), gpu_hours=0.0, node_hours=0.0)

    def _entry(self, case: Case, point: Point) -> Entry | None:
        """Return what became of a case, None if it has not run to an end."""
        run = next(iter(reversed(self._directory.attempts(case.case_id))), None)
        if run is None:
            return None
        kept = self._kept.get((case.case_id, run.attempt))
        if kept is not None:
            return Entry(case=case, attempt=run.attempt, outcome=_from_json(kept, point))
        try:
            result = Result.from_json(read_json(run.result_json), str(run.result_json))
        except FileNotFoundError:
            return None
        except RecordError as error:
            return Entry(case=case, attempt=run.attempt, outcome=Outcome(point=point, verdict="failed", why=str(error)))
        return Entry(case=case, attempt=run.attempt, outcome=judge(run, case, point, result))


def judge(run: RunDir, case: Case, point: Point, result: Result) -> Outcome:
    """Return what became of a point from its sentinel and its log.

    Memory that ended is more than a buffer that overflowed on the way there; both are more than the exit, because a
    simulator that is out of memory or has lost contacts may well complete.
    """
    found = read_log(run.train_log, case.num_envs_per_rank)
    if not run.train_log.exists():  # thrown away to save room: the sentinel has what it said
        found = LogFindings(overflows=_overflows(result.extra.get("overflows")), out_of_memory=None)
    verdict: Verdict
    why: str | None
    told = f"{result.cause}: {result.message}" if result.cause else result.message
    if found.out_of_memory is not None:
        verdict, why = "memory", found.out_of_memory
    elif (result.cause or "").startswith("oom"):
        verdict, why = "memory", told
    elif found.overflows:
        verdict = "overflow"
        why = "; ".join(_overflow_words(overflow) for overflow in found.overflows)
    elif result.status == "completed":
        verdict, why = "valid", None
    elif result.cause == "time_limit":
        verdict, why = "time", told
    else:
        verdict, why = "failed", told
    wall_s = max(result.end_unix_s - result.start_unix_s, 0.0)
    return Outcome(point=point, verdict=verdict, why=why, overflows=found.overflows, wall_s=wall_s)


def _overflow_words(overflow: Overflow) -> str:
    needs = f", needs {overflow.needed:,}" if overflow.needed is not None else ""
    return f"contacts dropped: {overflow.buffer} overflowed{needs} ({overflow.count} messages)"


def _read(directory: StudyDir) -> dict[tuple[str, int], dict[str, Any]]:
    try:
        data = read_json(directory.sweep_json)
    except FileNotFoundError:
        return {}
    require_schema(data, SWEEP_SCHEMA, str(directory.sweep_json))
    try:
        return _index(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{directory.sweep_json}: not as Paceline wrote it ({error!r})") from error


def _index(data: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(str(entry["case_id"]), int(entry["attempt"])): entry for entry in data["runs"]}


def _from_json(entry: dict[str, Any], point: Point) -> Outcome:
    try:
        return Outcome(
            point=point,
            verdict=entry["verdict"],
            why=entry["why"],
            overflows=_overflows(entry["overflows"]),
            wall_s=float(entry["wall_s"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"sweep.json: the entry of {entry.get('case_id')} is damaged ({error!r})") from error


def _overflows(entries: Sequence[dict[str, Any]] | None) -> tuple[Overflow, ...]:
    known = {field.name for field in fields(Overflow)}
    return tuple(Overflow(**{name: value for name, value in entry.items() if name in known}) for entry in entries or ())
