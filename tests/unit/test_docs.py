"""The documentation is true: its commands run, its links resolve, every sub-command is in it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ALL_TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

# Commands of the README that this file does not run, each with the test that does, or the reason why none can.
FRESH = "tests/integration/test_fresh_machine.py"
SITE = "needs the reader's site; tests/integration/test_slurm_study.py runs studies on a real Slurm"
RUN_ELSEWHERE = {
    r"git clone .*": f"{FRESH} clones the checkout itself",
    r"cd \w+": f"{FRESH}",
    r"make strong-scaling": FRESH,
    r"(make|paceline) .*CLUSTER=.*": SITE,
    r"paceline \w+ .*--cluster .*": SITE,
    r"make train .*": "tests/integration/test_campaign.py trains",
    r"paceline (evaluate|resume) .*": "needs checkpoints; tests/integration/test_campaign.py",
    r"make (weak-scaling|env-sweep|test|test-gpu|bench|lint|types|dev|setup|golden)\b.*": "CI runs make test",
    r"paceline (watch|status|retry|cancel|report|compare|history) .*": "needs a study folder; tests/integration",
}


def fenced(page: Path, languages: tuple[str, ...]) -> list[str]:
    """Return the commands in a page's fenced blocks of the given languages, continued lines joined."""
    commands: list[str] = []
    if not page.exists():
        return commands  # a test says so; collecting the others goes on
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        if language in languages:
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
                if command and not command.startswith("#"):
                    commands.append(" ".join(command.split()))
    return commands


README_COMMANDS = sorted(set(fenced(ROOT / "README.md", ("bash", "sh", "console", "shell"))))


def elsewhere(command: str) -> bool:
    return any(re.fullmatch(pattern, command) for pattern in RUN_ELSEWHERE)


def test_readme_has_its_two_commands_first() -> None:
    first = fenced(ROOT / "README.md", ("bash", "sh", "console", "shell"))[:2]
    assert first == ["make strong-scaling", "make test"]


@pytest.mark.parametrize("command", README_COMMANDS or ["none: README.md is missing"])
def test_readme_command_runs(command: str) -> None:
    if elsewhere(command):
        return
    words = shlex.split(command)
    assert words[0] in {"paceline", "make"}, f"the README's `{command}` is neither run nor listed in RUN_ELSEWHERE"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    found_errors = 1 if words[:2] == ["paceline", "check"] else 0  # the example is there to show what is wrong with it
    assert done.returncode == found_errors, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_every_exception_is_needed() -> None:
    for pattern, reason in RUN_ELSEWHERE.items():
        for test in re.findall(r"tests/[\w/.]+\.py", reason):
            assert (ROOT / test).exists(), f"{pattern}: {test} does not exist"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes for a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)[^)]*\)", text) + re.findall(
        r'(?:src|href)="([^"]+)"', text
    ):
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.relative_to(ROOT)}: {target} does not exist"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.relative_to(ROOT)}: {target}: no such heading"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_is_documented(command: str) -> None:
    assert re.search(rf"paceline {command}\b", ALL_TEXT), f"`paceline {command}` is in no page of the documentation"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_help_shows_an_example(command: str, paceline: Path) -> None:
    done = subprocess.run([paceline, command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^example.*:\n +paceline {command}\b", done.stdout, re.M), done.stdout


def test_documented_commands_exist() -> None:
    words = set(re.findall(r"`paceline ([a-z][\w-]*)", ALL_TEXT))
    assert words <= set(COMMANDS), (
        f"the documentation names commands that do not exist: {sorted(words - set(COMMANDS))}"
    )


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.M))
    words = set(re.findall(r"`make ([a-z][\w-]*)", ALL_TEXT)) | {
        word for command in README_COMMANDS if command.startswith("make ") for word in command.split()[1:2]
    }
    assert words <= targets, f"documented, but no such targets: {sorted(words - targets)}"
