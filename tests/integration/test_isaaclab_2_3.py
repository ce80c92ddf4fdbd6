"""The worker with Isaac Lab 2.3's trainer: real rsl-rl-lib 3.1.2 on two gloo ranks; what needs Kit is stood in for.

Isaac Lab 2.3 starts Isaac Sim, which needs a GPU and a registry. Its script, its simulation context and its wrapper are
small programs here (programs/isaaclab_2_3), under the names that the hooks look for. Runner, PPO and storage are real.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from paceline.bench import snapshot
from paceline.bench.environment import cache_variables
from paceline.bench.record import Case
from paceline.bench.rundir import StudyDir, write_json
from paceline.bench.toolchain import find_uv

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab]

ROOT = Path(__file__).resolve().parents[2]
STANDS_IN = Path(__file__).parent / "programs" / "isaaclab_2_3"
CASE = Case(
    kind="strong",
    task="PointMass",
    trainer="rsl_rl",
    world_size=2,
    num_envs=64,
    horizon=8,
    num_minibatches=4,
    num_epochs=3,
    iterations=30,
    warmup_iterations=2,
    repeat=0,
    seed=42,
    device="cpu",
    sync_every=4,
    engine_version="2.3",
    physics="physx",
)


def test_rsl_rl_3_is_measured_on_every_rank(jobs_environment: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    uv = find_uv(ROOT)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--target", site, "rsl-rl-lib==3.1.2"]
    subprocess.run(install, check=True, timeout=300)
    study = StudyDir(tmp_path / "study")
    snapshot.take(study)
    run = study.run(CASE.case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, CASE.to_json())
    environment = {
        **os.environ,
        **cache_variables(),
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in (study.code, STANDS_IN, site)),
        "PACELINE_RUN_DIR": str(run.path),
        "ISAACLAB_PATH": str(STANDS_IN),
        "OMP_NUM_THREADS": "1",
    }
    torchrun: list[str | Path] = [jobs_environment, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "paceline.bench.worker"],
        env=environment,
        cwd=run.path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    files = run.rank_files()
    assert len(files) == 2
    for rank, path in enumerate(files):
        header, *lines, end = (json.loads(line) for line in path.read_text().splitlines())
        assert header["versions"]["rsl_rl"] == "3.1.2" and header["seed"] == 42 + rank
        assert header["problem"]["num_envs_per_rank"] == 32 and header["problem"]["global_batch"] == 512
        assert end["status"] == "completed"
        rows = [dict(zip(header["columns"], line, strict=True)) for line in lines]
        assert [row["iteration"] for row in rows] == list(range(30))
        for row in rows:
            assert 0 < row["physics_time_s"] < row["env_step_time_s"] < row["collection_time_s"]
            assert row["inference_time_s"] > 0 and row["optimizer_steps"] == 12
            assert row["collectives"] > 0 and 0 < row["communication_time_s"] < row["update_time_s"]
            phases = row["physics_time_s"] + row["inference_time_s"] + row["update_time_s"]
            assert phases < row["iteration_time_s"]
        if rank == 0:
            ours = sum(row["iteration_time_s"] for row in rows)
            assert ours == pytest.approx(sum(row["reported_iteration_time_s"] for row in rows), rel=0.02)
            rewards = [row["reward"] for row in rows if row["reward"] is not None]
            assert len(rewards) == 30 and sum(rewards[-5:]) > sum(rewards[:5])  # it learns to stay in place
        else:  # rsl_rl 3 keeps no statistics there, and calls nothing that would say that an iteration is over
            assert {row["reward"] for row in rows} == {None}
