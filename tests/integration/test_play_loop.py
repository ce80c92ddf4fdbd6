"""The loop that plays episodes: every environment plays the same number, whether they are long or short."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from paceline.bench import environment

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab]


def test_every_environment_plays_the_same_number_of_episodes(
    jobs_environment: Path, repository: Path, tmp_path: Path
) -> None:
    link = tmp_path / "paceline"
    link.mkdir()
    for part in ("bench", "profiling"):
        (link / part).symlink_to(repository / part)
    program = repository / "tests" / "integration" / "programs" / "play_loop.py"
    subprocess.run(
        [jobs_environment, program, tmp_path / "record.jsonl"],
        env={**os.environ, **environment.cache_variables(), "PYTHONPATH": str(tmp_path)},
        timeout=100,
        check=True,
    )
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    episodes = [line for line in lines if "episode" in line]
    assert Counter(episode["env"] for episode in episodes) == {0: 3, 1: 3, 2: 3, 3: 3}  # 10 asked for, in fours
    for episode in episodes:
        assert episode["length"] == episode["reward"] == episode["env"] + 1
        assert episode["timed_out"] == (episode["env"] % 2 == 1) and episode["success"] == float(episode["timed_out"])
    assert [episode["episode"] for episode in episodes] == list(range(1, 13))
    assert lines[-1]["steps"] == 12 and lines[-1]["success"] == 0.5
    assert lines[-1]["facts"]["success_from"] == "time_out"
