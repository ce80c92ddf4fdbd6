"""Plays a small environment of known episodes with the loop of the evaluation worker (test_play_loop.py).

Environment k ends its episodes after k + 1 steps, by a fall if k is even, else by time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from paceline.bench.evalworker import Player, Record

NUM_ENVS = 4
LONGEST = 4


class Environment:
    num_envs = NUM_ENVS
    device = "cpu"
    max_episode_length = LONGEST

    def __init__(self) -> None:
        self.age = torch.zeros(NUM_ENVS, dtype=torch.long)

    @property
    def unwrapped(self) -> Environment:
        return self

    def reset(self) -> tuple[Any, dict[str, Any]]:
        self.age.zero_()
        return self.age.clone(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
        self.age += 1
        done = self.age >= torch.arange(NUM_ENVS) + 1
        by_time = done & (torch.arange(NUM_ENVS) % 2 == 1)
        reward = torch.ones(NUM_ENVS)
        self.age[done] = 0
        return self.age.clone(), reward, done.long(), {"time_outs": by_time}


class Recurrent:
    """rl_games' player, as far as its recurrent states go: how many steps each environment's episode has had."""

    is_rnn = True
    states: list[Any]

    def __init__(self) -> None:
        self.states = [torch.zeros(1, NUM_ENVS, 2)]

    def act(self, obs: Any) -> Any:
        assert torch.equal(self.states[0][0, :, 0].long(), obs), (self.states, obs)  # both begin anew together
        self.states = [state + 1 for state in self.states]
        return obs


def main() -> None:
    record = Record(Path(sys.argv[1]))
    player = Player({"episodes": 10, "num_envs": NUM_ENVS}, record, time.perf_counter())
    agent = Recurrent()

    def policy(obs: Any) -> Any:
        return agent.act(obs)

    times, _, _, success = player.play(Environment(), policy, 2)
    record.line({"facts": player.facts, "steps": len(times), "success": success})
    print(json.dumps(player.facts))


main()
