"""Folders of a rank on the node's disk, and the warm cache that they are filled from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench import caches
from paceline.bench.errors import LaunchError


def variables(tmp_path: Path, key: str = "k") -> dict[str, str]:
    node = tmp_path / "node"
    node.mkdir(exist_ok=True)
    return {"PACELINE_NODE_DIR": str(node), "PACELINE_WARM_DIR": str(tmp_path / "warm"), "PACELINE_CACHE_KEY": key}


def compile_something(folder: Path, text: str = "kernel") -> Path:
    path = folder / "warp" / "1.17.0" / "wp_module_ab12" / "module.o"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_a_container_nothing_is_made(tmp_path: Path) -> None:
    assert caches.enter(0, {}) == {}
    assert list(tmp_path.iterdir()) == []


def test_each_rank_has_folders_of_its_own(tmp_path: Path) -> None:
    environment = variables(tmp_path)
    first, second = caches.enter(0, environment), caches.enter(1, environment)
    assert {"WARP_CACHE_PATH", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "HOME", "TMPDIR", "PACELINE_KIT_ROOT"} <= set(
        first
    )
    assert not set(first.values()) & set(second.values())
    assert all(Path(path).is_dir() for path in (*first.values(), *second.values()))


def test_what_one_job_compiled_the_next_one_has(tmp_path: Path) -> None:
    environment = variables(tmp_path)
    folder = Path(caches.enter(0, environment)["WARP_CACHE_PATH"]).parent
    compile_something(folder)
    (folder / "home" / "secret").write_text("mine")
    warm = tmp_path / "warm" / "k"
    assert caches.publish(folder, warm) == 1
    assert caches.publish(folder, warm) == 0, "what is there is not added again"
    later = Path(caches.enter(7, environment)["WARP_CACHE_PATH"])
    assert (later / "1.17.0" / "wp_module_ab12" / "module.o").read_text() == "kernel"
    assert not (later.parent / "home" / "secret").exists(), "home is never kept"
    assert not list(warm.rglob(".new-*"))


def test_another_image_or_driver_has_another_cache(tmp_path: Path) -> None:
    folder = Path(caches.enter(0, variables(tmp_path, "a"))["WARP_CACHE_PATH"]).parent
    compile_something(folder)
    caches.publish(folder, tmp_path / "warm" / "a")
    other = Path(caches.enter(1, variables(tmp_path, "b"))["WARP_CACHE_PATH"])
    assert list(other.iterdir()) == []
    assert caches.key({"PACELINE_IMAGE_DIGEST": "1"}) != caches.key({"PACELINE_IMAGE_DIGEST": "2"})
    assert caches.key({"PACELINE_IMAGE_DIGEST": "1"}) == caches.key({"PACELINE_IMAGE_DIGEST": "1"})


def test_a_database_is_kept_from_the_first_job_that_had_one(tmp_path: Path) -> None:
    warm = tmp_path / "warm"
    for number in (1, 2):
        folder = tmp_path / f"rank{number}"
        (folder / "xdg").mkdir(parents=True)
        (folder / "xdg" / f"part{number}").write_text(str(number))
        caches.publish(folder, warm)
    assert set(json.loads((warm / "manifest.json").read_text())["files"]) == {"xdg/part1"}


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_files_are_left_out_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    environment = variables(tmp_path)
    folder = Path(caches.enter(0, environment)["WARP_CACHE_PATH"]).parent
    compile_something(folder)
    warm = tmp_path / "warm" / "k"
    caches.publish(folder, warm)
    kept = warm / "files" / "warp" / "1.17.0" / "wp_module_ab12" / "module.o"
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_text("ker" if damage == "cut" else "kernex")
    later = Path(caches.enter(1, environment)["WARP_CACHE_PATH"]).parent
    assert not list(later.rglob("module.o"))
    assert "1 files of the warm cache" in capsys.readouterr().err
    compile_something(later)
    assert caches.publish(later, warm) == 1
    assert kept.read_text() == "kernel"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "paceline.cache/2", "files": {"a": [1, "x"]}}', '{"files": 3}']
)
def test_a_manifest_that_cannot_be_read_is_no_cache(tmp_path: Path, text: str) -> None:
    warm = tmp_path / "warm" / "k"
    warm.mkdir(parents=True)
    (warm / "manifest.json").write_text(text)
    assert caches.enter(0, variables(tmp_path))
    assert caches.clone(warm, tmp_path / "node" / "rank-0") == 0


def test_a_manifest_cannot_write_outside_of_the_folder(tmp_path: Path) -> None:
    warm = tmp_path / "warm"
    (warm / "files").mkdir(parents=True)
    names = ["../../escaped", "/etc/escaped", "warp/../../escaped"]
    manifest = {"schema": caches.SCHEMA, "files": {name: [0, "e3b0c442"] for name in names}}
    (warm / "manifest.json").write_text(json.dumps(manifest))
    assert caches.clone(warm, tmp_path / "rank") == 0
    assert not list(tmp_path.rglob("escaped"))


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LaunchError, match="own folders cannot be made"):
        caches.enter(0, {"PACELINE_NODE_DIR": str(blocked)})


def test_command_line_publishes_rank_0(tmp_path: Path) -> None:
    environment = {**variables(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    call = [sys.executable, "-m", "paceline.bench.caches"]
    assert subprocess.run([*call, "publish"], env=environment, check=True, capture_output=True).stdout == b""
    compile_something(Path(caches.enter(0, environment)["WARP_CACHE_PATH"]).parent)
    said = subprocess.run([*call, "publish"], env=environment, check=True, capture_output=True, text=True).stdout
    assert said.startswith("paceline: 1 files added to the warm cache")
    key = subprocess.run([*call, "key"], env=environment, check=True, capture_output=True, text=True).stdout
    assert len(key.strip()) == 16
    assert subprocess.run([*call, "nonsense"], env=environment, check=False, capture_output=True).returncode == 2
