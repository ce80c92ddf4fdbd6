"""The layout and the import rules of the project, held by reading its sources."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "profiling", "analysis", "slurm_templates")

LEAVES = {
    "paceline.bench.attempt",
    "paceline.bench.campaignfile",
    "paceline.bench.checkpoint",
    "paceline.bench.checkpointcontents",
    "paceline.bench.errors",
    "paceline.bench.failures",
    "paceline.bench.jsontext",
    "paceline.bench.overflow",
    "paceline.bench.record",
    "paceline.bench.redaction",
    "paceline.bench.rundir",
    "paceline.bench.watchdog",
    "paceline.profiling.phases",
}
BASE = {"paceline.bench.errors", "paceline.bench.jsontext"}  # what any leaf may import
LEAF_TO_LEAF = {
    "paceline.bench.watchdog": {"paceline.bench.errors", "paceline.bench.rundir"},
    "paceline.bench.attempt": {"paceline.bench.errors", "paceline.bench.rundir"},
    "paceline.bench.overflow": {"paceline.bench.record"},
    "paceline.bench.checkpoint": {
        "paceline.bench.errors",
        "paceline.bench.checkpointcontents",
        "paceline.bench.jsontext",
    },
}
STDLIB = set(sys.stdlib_module_names)

# The table of import rules: for each part, its modules, the third-party packages and the modules of ours that it may
# import. Change it together with the rule, in one commit, or not at all.
JOB_SIDE = re.compile(
    r"paceline\.(bench\.(worker|garbage|hardware|levers|affinity|measurement|rankfile|rankscan|assignment|supervise|processes|sentinel|causes|logscan|stacks|cgroup|assets"
    r"|imageprobe|caches|nodecheck(_\w+)?|allreduce"
    r"|campaignworker|segment|segmentrun|saving|retention|metrics|trainlog|taskprobe|evalworker"
    r"|trainers(\..+)?)|profiling\.(?!phases$|nsys$).+)"
)
ANALYSIS = re.compile(r"paceline\.analysis(\..+)?")
COMMAND_LINE = re.compile(r"paceline\.bench\.(cli|commands\..+)")
TRAINER_FILE = re.compile(r"paceline\.bench\.trainers\..+")

PLAN_THIRD_PARTY = {"pydantic", "pydantic_core", "jinja2", "submitit", "rich", "typer", "yaml"}
JOB_THIRD_PARTY = {"torch", "nvtx", "pynvml", "psutil"}
TRAINER_THIRD_PARTY = {"isaaclab", "isaaclab_rl", "isaaclab_tasks", "isaaclab_newton", "warp", "newton", "gymnasium"}
TRAINER_THIRD_PARTY |= {"hydra", "omegaconf", "rsl_rl", "rl_games", "numpy"}
ANALYSIS_THIRD_PARTY = {"numpy", "pandas", "scipy", "numba", "orjson", "pyarrow", "vl_convert", "jinja2", "rich"}
ANALYSIS_THIRD_PARTY |= {"yaml"}
# bench.tasks is the plan's, but makes its table from an installed Isaac Lab when told to, with the jobs' Python.
# bench.assets asks Isaac Lab which asset server it is set to.
INSIDE_FUNCTIONS = {
    "paceline.bench.tasks": {"gymnasium", "isaaclab_tasks"},
    "paceline.bench.assets": {"isaaclab"},
    # bench.taskprobe reads a task's configuration; metrics are optional.
    "paceline.bench.taskprobe": {"isaaclab_tasks", "gymnasium", "isaaclab_rl"},
    "paceline.bench.metrics": {"prometheus_client"},
    # bench.evalworker runs Isaac Lab's play benchmark.
    "paceline.bench.evalworker": {"isaaclab", "warp"},
}


def modules() -> dict[str, Path]:
    """Return all modules of ours, by import name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(("paceline", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


MODULES = modules()


def imports(path: Path, top_level_only: bool = False) -> list[tuple[int, str]]:
    """Return (line, full name) of all imports in a module, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing_only or (top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            skipped.update(id(inner) for inner in ast.walk(node) if inner is not node)
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write paceline.<package>.<module>"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append((node.lineno, full if full in MODULES else str(node.module)))
    return found


def part_of(module: str) -> str:
    if module in LEAVES:
        return "leaf"
    if JOB_SIDE.fullmatch(module):
        return "job"
    if ANALYSIS.fullmatch(module):
        return "analysis"
    return "plan"


def offence(module: str, imported: str, in_function: bool) -> str | None:
    """Return why a module may not import another, None if it may."""
    part = part_of(module)
    top = imported.split(".")[0]
    if top == "paceline":
        if imported in LEAVES:
            fine = part != "leaf" or imported in LEAF_TO_LEAF.get(module, BASE)
            return None if fine else "a leaf imports only bench.errors and bench.jsontext"
        if imported not in MODULES or MODULES[imported].name == "__init__.py":
            return None  # a package's __init__ holds nothing but a docstring (test below)
        target = part_of(imported)
        if part == target and part != "leaf":
            return None
        if part in ("plan", "job") and imported == "paceline.profiling.nsys":  # standard library only
            return None
        if part == "plan" and imported == "paceline.bench.sentinel":  # for runs that were killed before they could
            return None
        if COMMAND_LINE.fullmatch(module) and target == "analysis":
            return None if in_function else "the CLI imports analysis inside its commands only"
        return f"{part} must not import {target}"
    if top in STDLIB:
        return None
    allowed: set[str] = {
        "leaf": set(),
        "plan": PLAN_THIRD_PARTY,
        "job": JOB_THIRD_PARTY | (TRAINER_THIRD_PARTY if TRAINER_FILE.fullmatch(module) else set()),
        "analysis": ANALYSIS_THIRD_PARTY,
    }[part]
    if in_function:
        allowed = allowed | INSIDE_FUNCTIONS.get(module, set())
    return None if top in allowed else f"{part} must not import {top}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_table(module: str) -> None:
    at_top = set(imports(MODULES[module], top_level_only=True))
    found = []
    for line, imported in imports(MODULES[module]):
        why = offence(module, imported, in_function=(line, imported) not in at_top)
        if why:
            found.append(f"{MODULES[module].relative_to(ROOT)}:{line}: imports {imported}: {why}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "imported", "in_function"),
    [
        ("paceline.bench.record", "numpy", False),
        ("paceline.bench.record", "paceline.bench.rundir", False),
        ("paceline.profiling.phases", "paceline.bench.study", False),
        ("paceline.bench.study", "torch", True),
        ("paceline.bench.plan", "pandas", False),
        ("paceline.bench.render", "paceline.analysis.load", True),
        ("paceline.bench.cli", "paceline.analysis.load", False),
        ("paceline.bench.worker", "pydantic", False),
        ("paceline.bench.worker", "paceline.bench.study", True),
        ("paceline.bench.worker", "rsl_rl.runners", False),
        ("paceline.profiling.hooks", "jinja2", True),
        ("paceline.analysis.load", "torch", False),
        ("paceline.analysis.load", "paceline.bench.study", False),
        ("paceline.analysis.load", "paceline.profiling.hooks", False),
    ],
)
def test_the_table_refuses(monkeypatch: pytest.MonkeyPatch, module: str, imported: str, in_function: bool) -> None:
    for name in (module, imported):
        if name.startswith("paceline"):
            monkeypatch.setitem(MODULES, name, ROOT / "some_module.py")
    assert offence(module, imported, in_function)


def test_inits_hold_nothing_but_a_docstring() -> None:
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert all(isinstance(node, ast.Expr) for node in body), f"{name} runs code on import"


def test_profiling_has_no_init() -> None:
    # Python 3.15 has a standard library package of this name, and cProfile, hence torch, needs it.
    assert not (ROOT / "profiling" / "__init__.py").exists(), "see docs/decisions/0001-one-import-namespace.md"


def test_package_table_matches_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        path.parent.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert {name.removeprefix("paceline.").replace(".", "/") for name in settings["packages"]} == folders
    assert settings["package-dir"] == {f"paceline.{package}": package for package in PACKAGES}


def test_package_data_covers_every_data_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    folders = [ROOT / name.removeprefix("paceline.").replace(".", "/") for name in settings["packages"]]
    covered = {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    for path in tracked("bench", "profiling", "analysis", "slurm_templates"):
        if path.suffix not in {".py", ".sh", ".md"}:
            assert path in covered, f"{path.relative_to(ROOT)} would be missing from an installed package"


def run_isolated(blocked: list[str], imported: list[str]) -> subprocess.CompletedProcess[str]:
    """Import modules of ours in a new process in which some packages cannot be imported."""
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
for name in {imported!r}:
    importlib.import_module(name)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_analysis_needs_no_torch() -> None:
    done = run_isolated(["torch", "submitit", "isaaclab"], ["paceline.analysis.report"])
    assert done.returncode == 0, done.stderr


def test_job_side_needs_nothing_of_ours_in_the_image() -> None:
    blocked = ["pydantic", "yaml", "jinja2", "submitit", "pandas", "rich", "scipy", "numpy"]
    job_side = [
        name
        for name, path in MODULES.items()
        if part_of(name) in {"job", "leaf"} and path.name != "__init__.py" and not TRAINER_FILE.fullmatch(name)
    ]
    assert "paceline.bench.worker" in job_side
    # torch, NVML and psutil are the image's; importing them is not what is asked here.
    at_top = {
        imported.split(".")[0] for name in job_side for _, imported in imports(MODULES[name], top_level_only=True)
    }
    assert not at_top & JOB_THIRD_PARTY, "import torch, nvtx, pynvml and psutil inside the functions that need them"
    done = run_isolated(blocked, job_side)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_heavy_library() -> None:
    heavy = ["torch", "pandas", "numpy", "scipy", "submitit", "jinja2", "pydantic"]
    code = f"""
import sys
sys.argv = ["paceline", "--help"]
from paceline.bench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + __import__("json").dumps([name for name in {heavy!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def tracked(*folders: str) -> list[Path]:
    """Return the files that git tracks or would track, those deleted in the working tree left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return [ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file()]


# Written with gaps, so that this file does not find itself.
MACHINE_PATHS = re.compile(
    r"/wor" + r"k/|/roo" + r"t/(?!\.cache)|/home/(?!user\b|\$)[a-z]|/tmp/[a-z]/|/opt/py" + r"pi|/opt/whee" + r"ls"
)
REGISTRY_HOSTS = re.compile(
    r"(?<!pypi\.)\b(pypi" + r"\.org|files\.python" + r"hosted\.org|deb\.debian" + r"\.org|registry\.npm" + r"js\.org)"
)
TEXT = {".py", ".j2", ".sh", ".yaml", ".yml", ".toml", ".md", ".txt", ".in", ".html", ".css", ".js", ".def", ".cfg", ""}


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS], ids=["machine paths", "registry hosts"])
def test_tracked_files_name_no(pattern: re.Pattern[str]) -> None:
    found = []
    for path in tracked():
        if path.suffix in TEXT:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_modules_are_short() -> None:
    python = [path for path in tracked() if path.suffix == ".py"]
    long = {str(path.relative_to(ROOT)): n for path in python if (n := len(path.read_text().splitlines())) > 400}
    assert not long, f"more than 400 lines: {long}"


def test_no_file_is_large() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 2_000_000]
    assert not large
