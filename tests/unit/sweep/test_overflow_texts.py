"""Every overflow text that engines are known to print, in lines as logs have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from paceline.bench import causes, overflow

KIT = "2025-03-02 10:11:12 [84,123ms] [Error] [omni.physx.plugin] PhysX error: "
TO = "please increase its size to at least"
FILE = ", FILE /builds/omniverse/physics/physx/source/gpunarrowphase/src/PxgNphaseImplementationContext.cpp, LINE 777"
SIZELESS = "please increase its size in the scene desc!"
MISS = ", otherwise, the simulation will miss interactions!"


@pytest.mark.parametrize(
    ("line", "setting", "needed"),
    [
        (f"{KIT}Patch buffer overflow detected, {TO} 192512 in the scene desc!{FILE}",
         "gpu_max_rigid_patch_count", 192512),
        (f"{KIT}Contact buffer overflow detected, {TO} 9437184 in the scene desc!{FILE}",
         "gpu_max_rigid_contact_count", 9437184),
        (f"{KIT}PxGpuDynamicsMemoryConfig::collisionStackSize buffer overflow detected, {TO} "
         f"268435456 in the scene desc! Contacts have been dropped.{FILE}", "gpu_collision_stack_size", 268435456),
        (f"{KIT}PxgDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase its size to at "
         "least 70000000 in the scene desc!", "gpu_collision_stack_size", 70000000),
        (f"{KIT}The application needs to increase PxgDynamicsMemoryConfig::totalAggregatePairsCapacity to 9021 {MISS}",
         "gpu_total_aggregate_pairs_capacity", 9021),
        (f"{KIT}the application need to increase the PxgDynamicsMemoryConfig::foundLostPairsCapacity to 3932160 {MISS}",
         "gpu_found_lost_pairs_capacity", 3932160),
        (f"{KIT}The application needs to increase PxGpuDynamicsMemoryConfig::foundLostAggregatePairsCapacity parameter "
         f"to 41000000{MISS}", "gpu_found_lost_aggregate_pairs_capacity", 41000000),
        # ovphysx 0.6.4, as its libraries print them
        ("PxGpuDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase its size to at least "
         "70000000 in the scene desc! Contacts have been dropped.", "gpu_collision_stack_size", 70000000),
        ("The application needs to increase PxGpuDynamicsMemoryConfig::foundLostAggregatePairsCapacity buffers to "
         "41000000, otherwise, the simulation will miss interactions",
         "gpu_found_lost_aggregate_pairs_capacity", 41000000),
        ("Particle system contact buffer overflow detected, please increase "
         "PxGpuDynamicsMemoryConfig::maxParticleContacts to at least 2000000", "gpu_max_particle_contacts", 2000000),
        ("Deformable volume contact buffer overflow detected, please increase "
         "PxGpuDynamicsMemoryConfig::maxDeformableVolumeContacts to at least 9000", "gpu_max_soft_body_contacts", 9000),
        ("Number of Newton contacts (70000) exceeded MJWarp limit (6400). Increase nconmax.", "solver_cfg.nconmax", 69),
        ("broadphase overflow - please increase nconmax to 36 or naconmax to 36864", "solver_cfg.nconmax", 36),
        ("narrowphase overflow - please increase nconmax to 33 or naconmax to 33792", "solver_cfg.nconmax", 33),
        ("nefc overflow - please increase njmax to 301", "solver_cfg.njmax", 301),
        ("Warning: Triangle pair buffer overflowed 2610113 > 2500000.", "collision_cfg.max_triangle_pairs", 2610113),
        ("Warning: Contact buffer overflowed 70123 > 65536.", "collision_cfg.rigid_contact_max", 70123),
    ],
)  # fmt: skip
def test_texts_name_buffer_and_size(line: str, setting: str, needed: int) -> None:
    found = overflow.scan(["[INFO] step 1", line, "fps step: 1234", line], num_envs_per_rank=1024)
    assert found.out_of_memory is None
    (only,) = found.overflows
    assert (only.setting, only.needed, only.count) == (setting, needed, 2)
    assert only.first in line


def test_the_largest_size_counts(tmp_path: Path) -> None:
    text = "Patch buffer overflow detected, please increase its size to at least {} in the scene desc!\n"
    log = tmp_path / "train.log"
    log.write_text("x\n" * 1000 + "".join(text.format(size) for size in (200, 500, 300)) + "Mean reward: 3.1\n")
    (only,) = overflow.read_log(log, 64).overflows
    assert (only.buffer, only.needed, only.count) == ("Patch", 500, 3)


def test_a_size_without_a_setting_is_no_mend() -> None:
    found = overflow.scan(["flex contact overflow - please increase naconmax to 12"], 1)
    assert found.overflows[0].setting is None and found.overflows[0].needed == 12


@pytest.mark.parametrize(
    "text",
    [
        "Broad phase pair buffer overflowed 9 > 8.",
        "Split query-result buffer overflowed 9 > 8.",
        "GJK candidate pair buffer overflowed 9 > 8.",
        "Split GJK work-item buffer overflowed 9 > 8.",
        "Split manifold work-item buffer overflowed 9 > 8.",
        "Mesh-convex shape pair buffer overflowed 9 > 8.",
        "Mesh-plane shape pair buffer overflowed 9 > 8.",
        "Mesh-mesh shape pair buffer overflowed 9 > 8.",
        "SDF-SDF shape pair buffer overflowed 9 > 8.",
    ],
)
def test_newton_drops_contacts_without_a_setting(text: str) -> None:
    """Buffers that Isaac Lab's configuration has no size for: the physics is invalid, and no size is named."""
    (only,) = overflow.scan([f"Warning: {text}"], 64).overflows
    assert only.setting is None and only.needed == 9 and only.buffer.startswith("Newton ")


def test_newtons_full_hashtable_gets_twice_its_size(tmp_path: Path) -> None:
    """As a sweep of rough-terrain ANYmal-C told it at 32,768 environments on one H100."""
    advice = "Increase contact_reduction_hashtable_size_factor or max_triangle_pairs."
    lines = [
        f"Warning: Contact reduction hashtable fill ratio exceeded 80% (842423 / 1048576). {advice}",
        f"Warning: Contact reduction hashtable fill ratio exceeded 80% (840643 / 1048576). {advice}",
        f"Warning: Contact reduction hashtable insert failures 4623. {advice}",
    ]
    (only,) = overflow.scan(lines, 32768).overflows
    assert (only.setting, only.needed, only.count) == ("collision_cfg.max_triangle_pairs", 8 * 1048576, 1)
    log = tmp_path / "train.log"
    log.write_text("\n".join(["Value function loss: 0.1", *lines, *lines[2:]]))
    assert overflow.read_log(log, 32768).overflows[0].needed == 8 * 1048576
    told = causes.read_log(log, 32768).invalid_physics
    assert told == (
        "Newton contact reduction hashtable buffer overflow: it needs at least 8388608 "
        "(collision_cfg.max_triangle_pairs), 2 messages"
    )
    (without,) = overflow.scan(lines[2:], 32768).overflows
    assert (without.setting, without.needed) == ("collision_cfg.max_triangle_pairs", None)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        (f"Patch buffer overflow detected, {SIZELESS}", "gpu_max_rigid_patch_count"),
        (f"Contact buffer overflow detected, {SIZELESS}", "gpu_max_rigid_contact_count"),
        (f"Friction patch buffer overflow detected, {SIZELESS}", None),
        (f"Force buffer overflow detected, {SIZELESS}", None),
        ("Reached limit set by PxSceneDesc::maxNbContactDataBlocks - ran out of buffer space for narrow phase. Either "
         "accept dropped contacts or increase buffer size allocated for narrow phase by increasing "
         "PxSceneDesc::maxNbContactDataBlocks.", None),
    ],
)  # fmt: skip
def test_physx_drops_contacts_and_names_no_size(text: str, setting: str | None) -> None:
    (only,) = overflow.scan([KIT + text], 64).overflows
    assert (only.setting, only.needed, only.count) == (setting, None, 1)


def test_ordinary_logs_say_nothing() -> None:
    lines = ["Loaded 4 memory pools", "Value function loss: 0.1", "increase", "allocated 3 GB of memory"]
    lines.append("Warning: Contact reduction hashtable fill ratio exceeded 90% (9 / 10). Increase max_triangle_pairs.")
    assert overflow.scan(lines, 64) == overflow.LogFindings(overflows=(), out_of_memory=None)
    # PhysX without a GPU: not a matter of how much memory there is
    assert overflow.scan(["RuntimeError: Failed to allocate 256 bytes on device 'cpu'"], 64).out_of_memory is None


def test_overrides_go_where_each_version_has_them() -> None:
    assert overflow.override("gpu_collision_stack_size", 5, "3.0") == "env.sim.physics.gpu_collision_stack_size=5"
    assert overflow.override("gpu_collision_stack_size", 5, "2.3") == "env.sim.physx.gpu_collision_stack_size=5"
