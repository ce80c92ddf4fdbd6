"""The jobs' environment: which Python and uv it takes, when it is made again, what it says when it cannot be made."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from paceline.bench import environment, toolchain
from paceline.bench.environment import JobEnvironment
from paceline.bench.errors import LaunchError


def program(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a lock, and a uv that makes "environments" and keeps a list of what it was asked."""
    root = tmp_path / "check out"
    (root / "containers" / "locks").mkdir(parents=True)
    (root / "containers" / "locks" / "isaaclab-3.0.txt").write_text("isaaclab==3.0.0 --hash=sha256:0\n")
    program(
        root / ".uv" / "bin" / "uv",
        f"""
        echo "$@" >> '{root}/asked'
        case $1 in
            --version) echo 'uv 0.0' ;;
            cache) echo '{root}' ;;
            venv) for last; do :; done; rm -rf "$last"; mkdir -p "$last/bin"; touch "$last/bin/python" ;;
            pip) [ ! -e '{root}/broken' ] || {{ cat '{root}/broken' >&2; exit 2; }} ;;
        esac
        """,
    )
    return root


@pytest.fixture(autouse=True)
def no_uv_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "check_machine", lambda folder: None)
    monkeypatch.setattr(environment, "find_python", lambda uv: "/usr/bin/python3.12")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "uv" else which(name))


def asked(root: Path, what: str) -> list[str]:
    return [line for line in (root / "asked").read_text().splitlines() if line.startswith(what)]


def test_made_once(checkout: Path) -> None:
    said: list[str] = []
    made = environment.ensure(said.append, checkout)
    assert made.python == checkout / ".venv-isaaclab-3.0" / "bin" / "python"
    assert made.ready()
    assert any("is ready" in line for line in said)
    (install,) = asked(checkout, "pip install")
    assert "--require-hashes" in install and install.endswith("isaaclab-3.0.txt")
    assert environment.ensure(said.append, checkout) == made
    assert len(asked(checkout, "venv")) == 1


def test_made_again_when_half_made_or_of_another_lock(checkout: Path) -> None:
    made = environment.ensure(lambda text: None, checkout)
    (made.folder / ".paceline-complete").unlink()  # as after a kill
    environment.ensure(lambda text: None, checkout)
    assert len(asked(checkout, "venv")) == 2
    made.lock.write_text("isaaclab==3.0.1 --hash=sha256:1\n")
    assert not made.ready()
    environment.ensure(lambda text: None, checkout)
    assert len(asked(checkout, "venv")) == 3
    moved = checkout.rename(checkout.with_name("moved"))
    assert not JobEnvironment(moved).ready()  # scripts in an environment name its folder


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("error: Failed to fetch: `x`\n  Caused by: dns error: failed to lookup\n", "no network"),
        ("error: failed to write: No space left on device (os error 28)\n", "no space left"),
        ("  x No solution found\nerror: because a needs b\n", "error: because a needs b"),
    ],
)
def test_failure_is_one_line_and_leaves_no_stamp(checkout: Path, output: str, said: str) -> None:
    (checkout / "broken").write_text(output)
    with pytest.raises(LaunchError, match=said) as error:
        environment.ensure(lambda text: None, checkout)
    assert "\n" not in str(error.value)
    assert not JobEnvironment(checkout).ready()
    (checkout / "broken").unlink()
    assert environment.ensure(lambda text: None, checkout).ready()


def test_one_process_at_a_time(checkout: Path) -> None:
    said: list[str] = []
    waiting = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            waiting.set()

    with open(checkout / ".venv-isaaclab-3.0.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=environment.ensure, args=(say, checkout))
        thread.start()
        assert waiting.wait(20)
        assert not (checkout / "asked").exists()
        # The other process finishes it.
        made = JobEnvironment(checkout)
        made.python.parent.mkdir(parents=True)
        made.python.touch()
        (made.folder / ".paceline-complete").write_text(made.stamp())
    thread.join(20)
    assert not (checkout / "asked").exists()
    assert made.ready()


def test_no_lock_no_uv(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".uv" / "bin" / "uv").unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")  # no pip either
    with pytest.raises(LaunchError, match=r"uv is needed .* install uv"):
        environment.ensure(lambda text: None, checkout)
    (checkout / "containers" / "locks" / "isaaclab-3.0.txt").unlink()
    with pytest.raises(LaunchError, match=r"isaaclab-3.0.txt is missing"):
        environment.ensure(lambda text: None, checkout)


def test_a_folder_that_cannot_be_written(checkout: Path) -> None:
    (checkout / ".venv-isaaclab-3.0.lock").mkdir()
    with pytest.raises(LaunchError, match="cannot be made in"):
        environment.ensure(lambda text: None, checkout)


class TestPython:
    """Looking for a Python 3.12."""

    @pytest.fixture(autouse=True)
    def real_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.delenv("PACELINE_PYTHON", raising=False)

    @pytest.fixture
    def python312(self, tmp_path: Path) -> Path:
        return program(tmp_path / "good" / "python3.12", "exit 0")

    def test_the_first_that_runs(self, tmp_path: Path, python312: Path) -> None:
        shim = program(tmp_path / "shim" / "python3.12", "echo 'python3.12: command not found' >&2; exit 127")
        missing = str(tmp_path / "missing")
        found = toolchain.find_python(Path("no-uv"), [missing, str(shim), str(python312)])
        assert found == str(python312)

    def test_versions_are_asked_for(self, tmp_path: Path) -> None:
        expected = sys.version_info[:2] == (3, 12)
        if expected:
            assert toolchain.find_python(Path("no-uv"), [sys.executable]) == sys.executable
        else:
            with pytest.raises(LaunchError, match=r"no Python 3\.12 was found"):
                toolchain.find_python(Path("no-uv"), [sys.executable])

    def test_one_that_uv_finds_or_gets(self, tmp_path: Path, python312: Path) -> None:
        uv = program(
            tmp_path / "uv",
            f"""
            case "$1 $2" in
                "python install") touch '{tmp_path}/installed' ;;
                "python find") [ -e '{tmp_path}/installed' ] && echo '{python312}' ;;
            esac
            """,
        )
        assert toolchain.find_python(uv, []) == str(python312)
        assert (tmp_path / "installed").exists()

    def test_named(self, tmp_path: Path, python312: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PACELINE_PYTHON", str(python312))
        assert toolchain.find_python(Path("no-uv"), []) == str(python312)
        monkeypatch.setenv("PACELINE_PYTHON", "/bin/false")
        with pytest.raises(LaunchError, match=r"PACELINE_PYTHON=/bin/false is not a Python 3\.12"):
            toolchain.find_python(Path("no-uv"), [str(python312)])


class TestMachine:
    """What is checked before minutes are spent."""

    @pytest.fixture(autouse=True)
    def real_checks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()

    def test_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 8_900_000_000))
        with pytest.raises(LaunchError, match=r"needs 9 GB in .*, 8\.9 GB are free"):
            toolchain.check_machine(tmp_path)

    def test_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.28"))
        with pytest.raises(LaunchError, match=r"needs glibc 2\.35 .* has 2\.28"):
            toolchain.check_machine(tmp_path)

    def test_processor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        with pytest.raises(LaunchError, match="for Linux on x86_64"):
            toolchain.check_machine(tmp_path)


def test_lock_files() -> None:
    locks = Path(environment.__file__).resolve().parents[1] / "containers" / "locks"
    for lock in ("isaaclab-3.0.txt", "tool.txt"):
        text = (locks / lock).read_text()
        pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert len(pinned) > 30
        assert all("==" in line for line in pinned)
        assert text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text  # no index, no host: what the user's uv or pip is set to decides
    jobs = (locks / "isaaclab-3.0.txt").read_text()
    wanted = [line.split("#")[0].strip() for line in (locks / "isaaclab-3.0.in").read_text().splitlines()]
    for requirement in filter(None, wanted):
        name, _, version = requirement.partition("==")
        assert f"\n{requirement} " in jobs if version else f"\n{name.split('>=')[0]}==" in jobs


NEWTON_CARTPOLE = '#usda 1.0\n(\n    defaultPrim = "cartPole"\n)\ndef Xform "cartpole"\n{\n}\n'


class TestAssets:
    """Making the asset root from newton's examples."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        folder = tmp_path / "newton assets"
        folder.mkdir()
        (folder / "cartpole_single_pendulum.usda").write_text(NEWTON_CARTPOLE)
        (folder / "ant.usda").write_text("#usda 1.0\n")
        return folder

    def test_made_and_made_again(self, tmp_path: Path, source: Path) -> None:
        from paceline.bench import assets

        root = tmp_path / "below" / "root"
        for _ in range(2):
            files = assets.make_assets(root, source)
            assert all(path.is_file() for path in files)
        assert 'defaultPrim = "cartpole"' in (root / assets.CARTPOLE).read_text()
        assert "PhysicsCollisionAPI" in (root / assets.GROUND).read_text()
        assert sorted(path.name for path in root.parent.iterdir()) == ["root"]

    def test_other_newton(self, tmp_path: Path, source: Path) -> None:
        from paceline.bench import assets

        (source / "cartpole_single_pendulum.usda").write_text("#usda 1.0\n")
        with pytest.raises(LaunchError, match="no default prim named cartPole"):
            assets.make_assets(tmp_path / "root", source)
        (source / "ant.usda").unlink()
        (source / "cartpole_single_pendulum.usda").write_text(NEWTON_CARTPOLE)
        with pytest.raises(LaunchError, match=r"ant\.usda cannot be read"):
            assets.make_assets(tmp_path / "root", source)
        assert not (tmp_path / "root").exists()

    def test_cannot_write(self, tmp_path: Path, source: Path) -> None:
        from paceline.bench import assets

        (tmp_path / "file").touch()
        with pytest.raises(LaunchError, match="cannot write the asset root"):
            assets.make_assets(tmp_path / "file" / "root", source)

    def test_through_a_python_that_has_nothing_of_ours(
        self, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A made-up newton package; Isaac Lab is not importable, so its server counts as out of reach.
        package = tmp_path / "site" / "newton"
        (package / "examples").mkdir(parents=True)
        (package / "__init__.py").touch()
        source.rename(package / "examples" / "assets")
        python = program(
            tmp_path / "env" / ".venv-isaaclab-3.0" / "bin" / "python",
            f'PYTHONPATH="$PYTHONPATH:{package.parent}" exec {sys.executable} -S "$@"',
        )
        said: list[str] = []
        root = environment.ensure_assets(python, said.append)
        assert root == python.parents[1] / "paceline-assets"
        assert (root / ".complete").exists()
        assert said and "cannot be reached" in said[0]
        python.unlink()  # not needed a second time
        assert environment.ensure_assets(python, said.append) == root
        assert len(said) == 1

    def test_failure_is_one_line(self, tmp_path: Path) -> None:
        python = program(tmp_path / "env" / ".venv-isaaclab-3.0" / "bin" / "python", f'exec {sys.executable} -S "$@"')
        with pytest.raises(LaunchError, match=r"cannot be made: newton is not installed") as error:
            environment.ensure_assets(python, lambda text: None)
        assert "\n" not in str(error.value)


def test_module_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    code = "import sys; sys.path[:0] = [sys.argv[1]]; import paceline.bench.environment as e; "
    code += "print(e.environment_python())"
    package = tmp_path / "paceline"
    package.mkdir()
    (package / "bench").symlink_to(Path(environment.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == os.fspath(environment.environment_python())
