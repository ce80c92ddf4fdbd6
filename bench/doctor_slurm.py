"""What Slurm says about a cluster profile: partition, limits, GPUs, account, nodes; and whether it would take a job."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paceline.bench.cluster import Cluster
from paceline.bench.findings import Finding, State
from paceline.bench.render import directives

_FORMAT = "%R|%a|%l|%D|%t|%c|%m|%G|%f"
_UNUSABLE = ("down", "drain", "fail", "maint", "inval", "unk", "plnd", "boot")


def examine(cluster: Cluster) -> Iterator[Finding]:
    """Yield what Slurm says about a profile; nothing is queued."""
    ping = _run("scontrol", "ping")
    if ping is None:
        fix = "run this on a login node, or load the site's Slurm module"
        yield _finding("scheduler", "failure", "Slurm is not here: scontrol is not on PATH", fix)
        return
    if ping.returncode or "UP" not in ping.stdout:
        text = (ping.stdout + ping.stderr).strip().splitlines() or ["no answer"]
        yield _finding(
            "scheduler", "failure", f"the controller does not answer: {text[0]}", "try again later, or ask the site"
        )
        return
    version = _run("scontrol", "--version")
    yield _finding("scheduler", "ok", version.stdout.strip() if version else "Slurm")
    rows = _partition(cluster)
    if not rows:
        have = sorted({row[0] for row in _sinfo()})
        name = cluster.partition or "the default partition"
        fix = f"partition: in the profile; there are {', '.join(have) or 'none'}"
        yield _finding("partition", "failure", f"{name} does not exist here", fix)
        return
    yield from _limits(cluster, rows)
    yield from _gpus(cluster, rows)
    yield from _account(cluster)
    yield from _accepts(cluster)


def _sinfo() -> list[list[str]]:
    answer = _run("sinfo", "--noheader", f"--format={_FORMAT}")
    lines = answer.stdout.splitlines() if answer and answer.returncode == 0 else []
    return [row for line in lines if len(row := line.split("|")) == 9]


def _partition(cluster: Cluster) -> list[list[str]]:
    """Return sinfo's rows of the profile's partition (the default one if it names none), one per kind of node."""
    rows = _sinfo()
    if cluster.partition:
        return [row for row in rows if row[0] in cluster.partition.split(",")]
    answer = _run("sinfo", "--noheader", "--format=%P")
    default = {
        line.strip().rstrip("*") for line in (answer.stdout if answer else "").splitlines() if line.endswith("*")
    }
    return [row for row in rows if row[0] in default] or rows


def _limits(cluster: Cluster, rows: list[list[str]]) -> Iterator[Finding]:
    name, availability, limit = rows[0][:3]
    usable = sum(int(row[3]) for row in rows if not row[4].rstrip("*~#!%$@^-").startswith(_UNUSABLE))
    total = sum(int(row[3]) for row in rows)
    text = f"{name}: {usable} of {total} nodes usable, at most {limit}"
    if availability != "up":
        yield _finding("partition", "failure", f"{name} is {availability}", "choose another partition, or wait")
    elif not usable:
        yield _finding("partition", "failure", text, "all of its nodes are down or drained: ask the site")
    elif usable < (cluster.max_nodes or 1):
        yield _finding("partition", "warning", text, f"max_nodes {cluster.max_nodes} is more than can run at once")
    else:
        yield _finding("partition", "ok", text)
    most = minutes(limit)
    if most is not None and cluster.time_limit_min > most:
        fix = f"time_limit_min: {most} or less"
        text = f"time_limit_min {cluster.time_limit_min} is more than {name} allows ({limit})"
        yield _finding("time limit", "failure", text, fix)
    else:
        yield _finding("time limit", "ok", f"{cluster.time_limit_min} min of at most {limit}")
    if cluster.constraint:
        features = {feature for row in rows for feature in row[8].split(",")}
        asked = {
            word for word in cluster.constraint.replace("&", "|").replace("*", "|").split("|") if word.strip("[]()")
        }
        unknown = sorted(word for word in asked if word.strip("[]()") not in features)
        if unknown:
            have = ", ".join(sorted(features - {"(null)"})) or "none"
            yield _finding(
                "constraint", "failure", f"no node has the feature {', '.join(unknown)}", f"there are: {have}"
            )


def _gpus(cluster: Cluster, rows: list[list[str]]) -> Iterator[Finding]:
    """Yield whether the partition's nodes have the GPUs, the memory and the cores that the profile asks for."""
    if cluster.gpus_per_node:
        counts = {(kind, count) for row in rows for kind, count in gres_gpus(row[7])}
        fitting = [c for kind, c in counts if cluster.gpu_type in (None, kind)]
        have = ", ".join(f"{kind or 'gpu'}:{count}" for kind, count in sorted(counts, key=str)) or "none"
        asked = f"{cluster.gpu_type or 'GPUs'}:{cluster.gpus_per_node}"
        if not fitting:
            yield _finding(
                "gpus", "failure", f"the profile asks for {asked}, the nodes have {have}", "gpu_type, gpus_per_node"
            )
        elif max(fitting) < cluster.gpus_per_node:
            fix = f"gpus_per_node: {max(fitting)}"
            yield _finding("gpus", "failure", f"the profile asks for {asked}, the nodes have {have}", fix)
        elif max(fitting) > cluster.gpus_per_node:
            fix = "studies will not use the others"
            yield _finding("gpus", "warning", f"gpus_per_node {cluster.gpus_per_node}, but the nodes have {have}", fix)
        else:
            yield _finding("gpus", "ok", f"{have} on each node")
        if len({kind for kind, _ in counts}) > 1 and not cluster.gpu_type:
            fix = "gpu_type: one of them, or runs are compared across kinds of GPUs"
            yield _finding("gpus", "warning", f"several kinds of GPUs: {have}", fix)
    per_node = cluster.mem_gb or (cluster.mem_per_gpu_gb or 0) * (cluster.gpus_per_node or 0)
    most_mib = max(int(row[6].rstrip("+")) for row in rows)
    if per_node * 1024 > most_mib:
        text = f"{per_node} GB asked for, a node has {most_mib / 1024:.0f}"
        yield _finding("memory", "failure", text, "mem_gb or mem_per_gpu_gb: less")
    most_cores = max(int(row[5].rstrip("+")) for row in rows)
    wanted = (cluster.cpus_per_gpu or 0) * (cluster.gpus_per_node or 0)
    if wanted > most_cores:
        yield _finding("cores", "failure", f"{wanted} cores asked for, a node has {most_cores}", "cpus_per_gpu: less")


def _account(cluster: Cluster) -> Iterator[Finding]:
    """Yield whether the user may charge the account, where the site keeps accounts."""
    answer = _run(
        "sacctmgr", "--noheader", "--parsable2", "show", "assoc", "where", "user=" + _user(), "format=account,qos"
    )
    if answer is None or answer.returncode:
        if cluster.account:
            yield _finding("account", "ok", f"{cluster.account} (this site keeps no accounts that could be asked)")
        return
    rows = [line.split("|") for line in answer.stdout.splitlines() if line]
    accounts, qos = {row[0] for row in rows}, {word for row in rows for word in row[1].split(",") if len(row) > 1}
    if cluster.account and cluster.account not in accounts:
        fix = f"account: one of {', '.join(sorted(accounts)) or '(none: ask the site)'}"
        yield _finding("account", "failure", f"you may not charge {cluster.account}", fix)
    elif cluster.qos and qos - {""} and cluster.qos not in qos:
        yield _finding(
            "account", "failure", f"you may not use the QOS {cluster.qos}", f"qos: one of {', '.join(sorted(qos))}"
        )
    else:
        yield _finding("account", "ok", cluster.account or "the default one")


def _accepts(cluster: Cluster) -> Iterator[Finding]:
    """Yield whether ``sbatch --test-only`` takes a job of one full node, and when it would start."""
    from paceline.bench.doctor import check_case

    lines = directives(check_case(cluster, 1, None), cluster, cluster.time_limit_min)
    script = "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), "true", ""])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test.sh").write_text(script)
        answer = _run("sbatch", "--test-only", "test.sh", cwd=folder)
    said = [line.partition("sbatch: ")[2] or line for line in (answer.stderr if answer else "").splitlines() if line]
    if answer is None or answer.returncode:
        errors = [line.removeprefix("error: ").removeprefix("allocation failure: ") for line in said]
        yield _finding(
            "submission", "failure", "; ".join(errors) or "sbatch refuses", "the profile's values for sbatch"
        )
    else:
        yield _finding("submission", "ok", (said or ["sbatch --test-only takes a job of one node"])[-1])


def gres_gpus(text: str) -> list[tuple[str | None, int]]:
    """Return (type, count) of each kind of GPU in sinfo's ``%G``, such as ``gpu:l40:8(S:0-1),shard:8``."""
    found: list[tuple[str | None, int]] = []
    for word in text.split(","):
        parts = word.split("(")[0].split(":")
        if parts[0] == "gpu" and parts[-1].isdigit():
            found.append((parts[1] if len(parts) == 3 else None, int(parts[-1])))
    return found


def minutes(limit: str) -> int | None:
    """Return sinfo's ``%l`` (``1-00:00:00``, ``30:00``, ``infinite``) in minutes, None without a limit."""
    days, _, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    numbers = [int(part) for part in parts]
    if days or len(numbers) == 3:
        numbers += [0] * (3 - len(numbers))
        return int(days or 0) * 1440 + numbers[0] * 60 + numbers[1]
    return numbers[0]


def _user() -> str:
    import getpass

    return getpass.getuser()


def _run(*command: str, cwd: str | None = None) -> subprocess.CompletedProcess[str] | None:
    """Return the answer of one of Slurm's programs, None if it is not here or does not answer within 20 s."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False, cwd=cwd
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _finding(check: str, state: State, text: str, fix: str | None = None) -> Finding:
    return Finding(check=check, state=state, text=text, fix=fix)
