"""What speaks for and against an image, from what bench/imageprobe.py found in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.bench.findings import Finding, State

_TRAINERS = {"rsl-rl-lib": "rsl_rl", "rl-games": "rl_games"}
_MEASURING = {
    "nvidia-ml-py": "samples of GPUs (power, clocks, use)",
    "psutil": "samples of processes",
    "nvtx": "ranges in traces",
}


def judge(found: Mapping[str, Any]) -> list[Finding]:
    """Return the findings on an image, in the order in which a person would ask."""
    packages = found["packages"]
    findings = [_finding("system", "ok", f"{found['os'] or 'unknown system'}, {found['libc'] or 'unknown C library'}")]
    python = found["python"]
    version = tuple(int(part) for part in python["version"].split(".")[:2])
    findings.append(
        _finding("python", "ok", f"{python['version']} ({python['executable']})")
        if version >= (3, 10)
        else _finding(
            "python", "failure", f"{python['version']} is older than 3.10", "use an image with a newer Python"
        )
    )
    findings += [_isaaclab(found), _torch(found), *_trainers(packages)]
    missing = [f"{name}: no {what}" for name, what in _MEASURING.items() if not packages.get(name)]
    if missing:
        fix = "add them to the image, or build one of containers/, which have them"
        findings.append(_finding("measuring", "warning", "; ".join(missing), fix))
    else:
        findings.append(_finding("measuring", "ok", ", ".join(f"{name} {packages[name]}" for name in _MEASURING)))
    nsys = found["nsys"]
    findings.append(
        _finding("nsys", "ok", f"{nsys['version'] or 'unknown version'} ({nsys['path']})")
        if nsys
        else _finding("nsys", "ok", "none; profiled runs use the node's own, or torch.profiler")
    )
    if not found["compiler"] and packages.get("rl-games"):
        fix = "install gcc and libc6-dev in the image"
        findings.append(_finding("compiler", "warning", "no C compiler: torch.compile (rl_games) fails", fix))
    findings.append(_writing(found))
    if "imports" in found:
        failed = {name: error for name, error in found["imports"].items() if error}
        findings += [
            _finding("import", "failure", f"{name}: {error}", "build the image again") for name, error in failed.items()
        ]
        if not failed:
            findings.append(_finding("import", "ok", ", ".join(found["imports"])))
    return findings


def _finding(check: str, state: State, text: str, fix: str | None = None) -> Finding:
    return Finding(check=check, state=state, text=text, fix=fix)


def _isaaclab(found: Mapping[str, Any]) -> Finding:
    packages = found["packages"]
    if packages.get("isaaclab"):
        engines = [name for name in ("newton", "ovphysx", "isaacsim") if packages.get(name)]
        if found["isaacsim"] and "isaacsim" not in engines:
            engines.append("Isaac Sim")
        with_them = ", ".join(f"{name} {packages.get(name) or ''}".strip() for name in engines) or "no physics"
        return _finding("isaaclab", "ok", f"{packages['isaaclab']} with {with_them}")
    if found["isaaclab_path"]:
        return _finding("isaaclab", "ok", f"sources in {found['isaaclab_path']}, version not told")
    return _finding("isaaclab", "failure", "not in this image", "build one of containers/: make image")


def _torch(found: Mapping[str, Any]) -> Finding:
    version, cuda = found["packages"].get("torch"), found["torch_cuda"]
    if not version:
        return _finding("torch", "failure", "not in this image", "build one of containers/: make image")
    if not cuda:
        return _finding(
            "torch", "warning", f"{version}, built without CUDA: trains on CPU only", "use a CUDA build of torch"
        )
    return _finding("torch", "ok", f"{version}, CUDA {cuda}")


def _trainers(packages: Mapping[str, str | None]) -> list[Finding]:
    have = [f"{name} {packages[package]}" for package, name in _TRAINERS.items() if packages.get(package)]
    lack = [name for package, name in _TRAINERS.items() if not packages.get(package)]
    if not have:
        return [_finding("trainers", "failure", "neither rsl_rl nor rl_games", "add one of them to the image")]
    if lack:
        return [
            _finding(
                "trainers", "warning", f"{have[0]}; no {lack[0]}", f"studies with trainer: {lack[0]} cannot use it"
            )
        ]
    return [_finding("trainers", "ok", ", ".join(have))]


def _writing(found: Mapping[str, Any]) -> Finding:
    """Return what jobs can write to: what an image keeps read-only is bound over, as long as the folder exists."""
    closed = [path for path, writable in found["written"].items() if not writable]
    home = found["home"]
    parts = [f"home {home['path'] or 'unset'} ({'writable' if home['writable'] else 'read-only'})"]
    if closed:
        parts.append(f"{len(closed)} read-only folders of Isaac Sim, bound over by each job: {', '.join(closed)}")
    if found["isaacsim"] and not found["written"]:
        fix = "build on containers/isaaclab-2.3, which makes the folders that Kit writes to"
        return _finding("writing", "warning", "the folders that Isaac Sim writes to do not exist in the image", fix)
    return _finding("writing", "ok", "; ".join(parts))
