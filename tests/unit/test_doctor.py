"""Findings, what Slurm's words mean, images judged, nodes checked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import (
    doctor,
    doctor_paths,
    doctor_slurm,
    findings,
    image,
    imagecheck,
    imageprobe,
    nodecheck,
    nodecheck_gpu,
)
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.findings import Finding
from paceline.bench.imageprobe import labels, probe
from paceline.bench.rundir import RunDir, StudyDir, write_json
from paceline.profiling import nsys
from rich.console import Console

from tests.job_scene import case as make_case

SITE = Cluster(name="site", scheduler="slurm", gpus_per_node=8, gpu_type="l40", cpus_per_gpu=8, mem_per_gpu_gb=60)


def checks(found: Any) -> dict[str, str]:
    return {finding.check: finding.state for finding in found}


# ------------------------------------------------------------------------------------------------ findings


def test_a_failure_decides_the_exit_code_and_a_warning_does_not() -> None:
    rows = [Finding(check="a", state="ok", text="fine"), Finding(check="b", state="warning", text="hm", fix="do this")]
    assert findings.exit_code(rows) == 0
    assert findings.summary(rows) == "1 ok, 1 warning"
    rows.append(Finding(check="c", state="failure", text="no", fix="do that", node="node1"))
    assert findings.exit_code(rows) == 1
    stream = io.StringIO()
    findings.show(Console(file=stream, width=100), rows, "a title")
    text = stream.getvalue()
    assert text.startswith("a title\n")
    assert "✓ a" in text and "! b" in text and "→ do this" in text and "✗ c" in text and "node1" in text
    assert "\x1b" not in text


def test_findings_survive_json() -> None:
    row = Finding(check="c", state="failure", text="no", fix="do that", node="node1")
    assert findings.from_json([json.loads(json.dumps(row.to_json()))]) == [row]
    assert findings.from_json([{"state": "strange"}], "node2")[0].state == "warning"


def test_complaints_of_a_run_name_node_and_fix(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert findings.complaints(run) == []
    rows = [
        {"check": "disk", "state": "ok", "text": "fine"},
        {"check": "load", "state": "warning", "text": "busy", "fix": "exclusive: true"},
        {"check": "gpus", "state": "failure", "text": "none", "fix": "ask for some"},
    ]
    write_json(run.doctor_json("node1"), {"schema": nodecheck.SCHEMA, "node": "node1", "findings": rows})
    run.doctor_json("node2").write_text("{")
    assert findings.complaints(run) == [
        "failure on node1: gpus: none → ask for some",
        "warning on node1: load: busy → exclusive: true",
    ]


# ------------------------------------------------------------------------------------------------ Slurm's words


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1-00:00:00", 1440), ("2-12:30:00", 3630), ("08:00:00", 480), ("30:00", 30), ("infinite", None), ("n/a", None)],
)
def test_time_limits(text: str, expected: int | None) -> None:
    assert doctor_slurm.minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:l40:8", [("l40", 8)]),
        ("gpu:l40:8(S:0-1)", [("l40", 8)]),
        ("gpu:4", [(None, 4)]),
        ("gpu:a100:2,gpu:l40:4,shard:8", [("a100", 2), ("l40", 4)]),
        ("(null)", []),
    ],
)
def test_gres(text: str, expected: list[tuple[str | None, int]]) -> None:
    assert doctor_slurm.gres_gpus(text) == expected


def rows(gres: str = "gpu:l40:8", state: str = "idle", availability: str = "up") -> list[list[str]]:
    return [["batch", availability, "1-00:00:00", "2", state, "64", "512000", gres, "l40,ib"]]


@pytest.mark.parametrize(
    ("changes", "gres", "expected"),
    [
        ({}, "gpu:l40:8", {"gpus": "ok"}),
        ({"gpus_per_node": 4}, "gpu:l40:8", {"gpus": "warning"}),
        ({"gpus_per_node": 16, "mem_per_gpu_gb": 8, "cpus_per_gpu": 4}, "gpu:l40:8", {"gpus": "failure"}),
        ({"gpu_type": "h100"}, "gpu:l40:8", {"gpus": "failure"}),
        ({}, "(null)", {"gpus": "failure"}),
        ({"gpu_type": None}, "gpu:a100:8,gpu:l40:8", {"gpus": "warning"}),
        ({"mem_per_gpu_gb": 100}, "gpu:l40:8", {"gpus": "ok", "memory": "failure"}),
        ({"cpus_per_gpu": 16}, "gpu:l40:8", {"gpus": "ok", "cores": "failure"}),
    ],
)
def test_gpus_memory_and_cores_of_a_partition(changes: dict[str, Any], gres: str, expected: dict[str, str]) -> None:
    found = doctor_slurm._gpus(SITE.model_copy(update=changes), rows(gres))
    assert checks(found) == expected


def test_limits_of_a_partition() -> None:
    def limits(changes: dict[str, Any], **row: str) -> dict[str, str]:
        return checks(doctor_slurm._limits(SITE.model_copy(update=changes), rows(**row)))

    assert limits({}) == {"partition": "ok", "time limit": "ok"}
    assert limits({"time_limit_min": 1441})["time limit"] == "failure"
    assert limits({}, state="drained*")["partition"] == "failure"
    assert limits({}, availability="down")["partition"] == "failure"
    assert limits({"max_nodes": 3})["partition"] == "warning"
    assert limits({"constraint": "l40&ib"}) == limits({})
    assert limits({"constraint": "l40&fast"})["constraint"] == "failure"


# ------------------------------------------------------------------------------------------------ folders and images


def test_folders_and_python_of_a_profile(tmp_path: Path) -> None:
    site = Cluster(name="here", scheduler="local", results=str(tmp_path / "new" / "results"), python="/no/python")
    found = checks(doctor_paths.examine(site))
    assert found["results"] == "ok" and found["python"] == "warning"
    assert not (tmp_path / "new").exists(), "nothing is made"
    wrong = site.model_copy(update={"results": "/proc/results", "asset_root": str(tmp_path)})
    found = checks(doctor_paths.examine(wrong))
    assert found["results"] == "failure" and found["assets"] == "failure"


def test_a_missing_image_is_a_failure_with_the_command_that_builds_it() -> None:
    runtime = {"kind": "apptainer", "image": "/no/image.sif"}
    site = Cluster.model_validate({"name": "here", "scheduler": "local", "runtime": runtime})
    found = {finding.check: finding for finding in doctor_paths.examine(site)}
    assert found["image"].state == "failure"
    assert found["image"].fix == "build it: paceline image build isaaclab-3.0 --output /no/image.sif"


def found_in(**changes: Any) -> dict[str, Any]:
    return {
        **probe(),
        "packages": dict.fromkeys(probe()["packages"], "1.0"),
        "torch_cuda": "13.0",
        "compiler": "/cc",
    } | changes


def test_a_full_image_has_nothing_to_complain_about() -> None:
    assert {finding.state for finding in imagecheck.judge(found_in())} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"python": {"version": "3.9.2", "executable": "python3"}}, "python", "failure"),
        ({"torch_cuda": None}, "torch", "warning"),
        ({"packages": {}}, "trainers", "failure"),
        ({"packages": {"isaaclab": "3.0.0", "rsl-rl-lib": "5.5.1"}}, "trainers", "warning"),
        ({"packages": {"isaaclab": "3.0.0", "rsl-rl-lib": "5.5.1"}}, "measuring", "warning"),
        ({"compiler": None}, "compiler", "warning"),
        ({"imports": {"torch": "ImportError: libcudart"}}, "import", "failure"),
        ({"isaacsim": "/isaac-sim/python.sh", "written": {}}, "writing", "warning"),
    ],
)
def test_what_an_image_lacks_is_told(changes: dict[str, Any], check: str, state: str) -> None:
    judged = {finding.check: finding for finding in imagecheck.judge(found_in(**changes))}
    assert judged[check].state == state
    assert judged[check].fix


def test_labels_name_the_versions_that_are_there() -> None:
    found = found_in(packages={"torch": "2.11.0", "isaacsim": None}, nsys={"version": "2024.2", "path": "/nsys"})
    assert labels(found) == {
        "paceline.version.torch": "2.11.0",
        "paceline.version.python": found["python"]["version"],
        "paceline.version.cuda": "13.0",
        "paceline.version.nsys": "2024.2",
    }


def test_build_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "none"))
    recipe = image.find_recipe("isaaclab-3.0")
    command = image.build_command(recipe, "docker", "name", {"PHYSICS": "ovphysx"}, ["--no-cache"])
    assert command == ["docker", "build", "--no-cache", "--build-arg", "PHYSICS=ovphysx", "-f",
                       str(recipe / "Dockerfile"), "-t", "name", "."]  # fmt: skip
    command = image.build_command(recipe, "apptainer", "out.sif", {"BASE_IMAGE": str(tmp_path)})
    assert command[1:] == ["build", "--build-arg", f"FROM={tmp_path}", "--build-arg", "BOOTSTRAP=localimage", "out.sif",
                           str(recipe / "isaaclab-3.0.def")]  # fmt: skip
    assert image.build_command(recipe, "buildah", "name", {})[:4] == ["buildah", "bud", "--format", "docker"]
    with pytest.raises(ClusterError, match=r"no such recipe \(recipes: isaaclab-2.3, isaaclab-3.0\)"):
        image.find_recipe("isaaclab-4.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="docker is not on PATH"):
        image.find_builder("docker")
    with pytest.raises(LaunchError, match="none of apptainer, docker, podman, buildah"):
        image.find_builder()


def test_no_room_is_told_before_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "_ROOM_GB", {"isaaclab-3.0": 10**9})
    with pytest.raises(LaunchError, match="APPTAINER_TMPDIR"):
        image.check_room("isaaclab-3.0", tmp_path / "out.sif", "apptainer")


# ------------------------------------------------------------------------------------------------ nodes


def test_this_node_can_do_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets" / "Isaac").mkdir(parents=True)
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(tmp_path / "assets"))
    found = nodecheck.examine(RunDir(tmp_path), make_case(1))
    assert not [row for row in found if row["state"] == "failure"]
    assert {"cores", "memory", "disk", "assets", "ports", "clock", "load"} <= {row["check"] for row in found}
    assert all(row["fix"] for row in found if row["state"] == "warning")


@pytest.mark.parametrize("damage", ["run", "assets"])
def test_a_node_that_cannot_do_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    run = StudyDir(tmp_path).run(make_case(1).case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, make_case(1).to_json())
    monkeypatch.setenv("PACELINE_RUN_DIR", str(run.path))
    if damage == "assets":
        monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "none"))
    assert nodecheck.main([]) == 1
    (path,) = run.doctor_files()
    kept = json.loads(path.read_text())
    assert kept["schema"] == nodecheck.SCHEMA
    failed = [row for row in kept["findings"] if row["state"] == "failure"]
    assert [row["check"] for row in failed] == ["assets" if damage == "assets" else "disk"]
    assert failed[0]["fix"]


def test_a_check_that_breaks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: RunDir, case: Any) -> Any:
        raise ZeroDivisionError("odd machine")

    monkeypatch.setattr(nodecheck, "CHECKS", (broken,))
    (row,) = nodecheck.examine(RunDir(tmp_path), make_case(1))
    assert row["state"] == "warning" and row["text"] == "could not be checked: ZeroDivisionError: odd machine"


GPUS = [{"index": str(i), "uuid": f"GPU-{i}aaa", "name": "NVIDIA L40", "driver_version": "550.54"} for i in range(4)]


@pytest.mark.parametrize(
    ("mask", "present", "state"),
    [
        ("0,1", GPUS, "ok"),
        (None, GPUS, "ok"),
        ("GPU-0aaa,GPU-3aaa", GPUS, "ok"),
        ("2", GPUS, "failure"),
        ("0,7aaa", GPUS, "failure"),
        ("0,1", [], "failure"),
        ("0,1", [*GPUS[:3], {**GPUS[3], "name": "NVIDIA H100"}], "warning"),
    ],
)
def test_gpu_masks(
    monkeypatch: pytest.MonkeyPatch, mask: str | None, present: list[dict[str, str]], state: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(nodecheck_gpu, "_listed", lambda: present)
    monkeypatch.setattr(nodecheck_gpu, "cuda_devices", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    if mask is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    found = list(nodecheck_gpu.gpus(RunDir(tmp_path), make_case(2, device="cuda")))
    assert [row[1] for row in found] == [state]


@pytest.mark.parametrize(("seen", "state"), [(None, "ok"), (2, "ok"), (1, "failure"), (0, "failure")])
def test_what_cuda_sees_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: int | None, state: str) -> None:
    monkeypatch.setattr(nodecheck_gpu, "_listed", lambda: GPUS)
    monkeypatch.setattr(nodecheck_gpu, "cuda_devices", lambda: seen)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (row,) = nodecheck_gpu.gpus(RunDir(tmp_path), make_case(2, device="cuda"))
    assert row[:2] == ("gpus", state)


@pytest.mark.parametrize(("cuda", "state"), [("12.8", "ok"), ("13.0", "failure"), (None, "failure")])
def test_driver_against_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str | None, state: str) -> None:
    monkeypatch.setattr(nodecheck_gpu, "_listed", lambda: GPUS)
    monkeypatch.setattr(imageprobe, "probe", lambda: {"torch_cuda": cuda})
    monkeypatch.setattr(nsys, "find", lambda: None)
    assert [row[1] for row in nodecheck_gpu.driver(RunDir(tmp_path), make_case(2, device="cuda"))] == [state]


def test_vulkan_is_asked_only_where_the_engine_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(nodecheck_gpu.vulkan(RunDir(tmp_path), make_case(1, device="cuda"))) == []
    monkeypatch.setattr(nodecheck_gpu, "_isaac_sim", lambda: True)  # the doctor's own check goes by the image
    assert list(nodecheck_gpu.vulkan(RunDir(tmp_path), make_case(1, device="cuda"))) == []
    assert len(list(nodecheck_gpu.vulkan(RunDir(tmp_path), make_case(1, device="cuda", task="doctor")))) == 1
    count = nodecheck_gpu.vulkan_devices()
    (row,) = nodecheck_gpu.vulkan(RunDir(tmp_path), make_case(1, device="cuda", engine_version="2.3"))
    assert (row[1] == "ok") == (isinstance(count, int) and count > 0)


def test_the_job_that_checks_asks_for_a_whole_node() -> None:
    case = doctor.check_case(SITE, 2, None)
    assert (case.world_size, case.num_nodes, case.device, case.gpu_type) == (16, 2, "cuda", "l40")
    plain = SITE.model_copy(update={"gpus_per_node": 0, "gpu_type": None})
    assert (doctor.check_case(plain, 1, None).world_size, doctor.check_case(plain, 1, None).device) == (2, "cpu")
    assert doctor.check_case(SITE, 1, 4).world_size == 4


SMI = """#!/bin/sh
case "$*" in
    *--query-gpu=*) printf '0, GPU-0aaa, NVIDIA H200, 580.159.04\\n1, GPU-1aaa, NVIDIA H200, 580.159.04\\n' ;;
    *--query-compute-apps=*) printf 'GPU-1aaa, 4711, 1234\\n' ;;
esac
"""


def test_what_nvidia_smi_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no GPU here: its words, as an H200 machine printed them, come from a script.
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    nodecheck_gpu._listed.cache_clear()
    try:
        run, case = RunDir(tmp_path), make_case(2, device="cuda")
        assert list(nodecheck_gpu.gpus(run, case)) == [
            ("gpus", "ok", "2 x NVIDIA H200 (CUDA_VISIBLE_DEVICES=0,1)", None)
        ]
        (row,) = nodecheck_gpu.foreign(run, case)
        assert row[1] == "warning" and row[2].endswith("1234 MiB in use")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert [row[1] for row in nodecheck_gpu.foreign(run, case)] == ["ok"]
        (row,) = nodecheck_gpu.gpus(run, case)
        assert row[1] == "failure" and row[2].endswith("2 are needed")
    finally:
        nodecheck_gpu._listed.cache_clear()
