"""Where Isaac Lab 2.3 has its wrapper for rsl_rl; with an environment of two substeps and eight steps an episode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from isaaclab.sim.simulation_context import SimulationContext
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class PointMass:
    """Push a point mass back to where it should be."""

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self.cfg = SimpleNamespace(seed=seed)
        self.sim = SimulationContext(num_envs)
        self.age = torch.zeros(num_envs, dtype=torch.long)
        self.sim.position.uniform_(-1.0, 1.0)

    def observe(self) -> TensorDict:
        state = torch.cat((self.sim.position, self.sim.velocity), dim=1)
        return TensorDict({"policy": state}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.sim.force = actions
        for _ in range(2):
            self.sim.step(render=False)
        self.age += 1
        done = self.age >= 8
        reward = -self.sim.position.abs().squeeze(1)
        self.sim.position = torch.where(
            done[:, None], torch.empty(self.num_envs, 1).uniform_(-1.0, 1.0), self.sim.position
        )
        self.age[done] = 0
        return reward, done


class RslRlVecEnvWrapper(VecEnv):  # type: ignore[misc]
    """The interface that rsl_rl asks for."""

    def __init__(self, env: PointMass) -> None:
        self.unwrapped, self.cfg = env, env.cfg
        self.num_envs, self.num_actions, self.max_episode_length, self.device = env.num_envs, 1, 8, "cpu"
        self.episode_length_buf = env.age

    def get_observations(self) -> TensorDict:
        return self.unwrapped.observe()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        reward, done = self.unwrapped.step(actions)
        return self.unwrapped.observe(), reward, done.long(), {}
