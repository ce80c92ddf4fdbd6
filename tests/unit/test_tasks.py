from __future__ import annotations

import json
from pathlib import Path

import pytest
from paceline.bench import tasks

TABLE = Path(tasks.__file__).with_name("tasks.json")


def test_known_tasks() -> None:
    ant = tasks.lookup("Isaac-Ant-Direct")
    assert ant is not None
    assert ant.trainers == ("rsl_rl", "rl_games")
    assert ant.default_num_envs == 4096
    assert "newton_mjwarp" in ant.physics
    # isaaclab_tasks/core/locomotion/ant/agents: rsl_rl_ppo_cfg.AntDirectPPORunnerCfg and rl_games_direct_ppo_cfg.yaml
    assert ant.agent("rsl_rl", "newton_mjwarp") == tasks.AgentDefaults(horizon=32, num_minibatches=4, num_epochs=5)
    assert ant.agent("rl_games", "physx") == tasks.AgentDefaults(horizon=16, minibatch_size=32768, num_epochs=4)


def test_unknown_tasks() -> None:
    assert tasks.lookup("Isaac-Ant-Direct-v0") is None
    assert tasks.nearest("Isaac-Ant-Direct-v0")[0] == "Isaac-Ant-Direct"
    assert tasks.nearest("isaac-cartpole")[0] == "Isaac-Cartpole"
    assert tasks.nearest("zzz") == []


@pytest.mark.parametrize("name", tasks.names())
def test_every_entry_is_usable(name: str) -> None:
    task = tasks.lookup(name)
    assert task is not None
    assert task.trainers
    for (trainer, physics), agent in task.agents.items():
        assert physics is None or physics in task.physics
        assert agent.horizon >= 1
        assert agent.num_epochs >= 1
        assert (agent.num_minibatches is None) == (trainer == "rl_games")
        assert (agent.minibatch_size is None) == (trainer == "rsl_rl")


def test_the_table_is_as_the_generator_writes_it() -> None:
    text = TABLE.read_text(encoding="utf-8")
    table = json.loads(text)
    assert table["schema"] == tasks.TASKS_SCHEMA
    assert tasks.isaaclab_version() == table["isaaclab"]
    assert tasks._to_text(table) == text
    assert list(table["tasks"]) == sorted(table["tasks"])
