"""Where Isaac Lab 2.3 has its SimulationContext. This one needs no Kit: point masses on a line."""

from __future__ import annotations

import torch


class SimulationContext:
    """Moves what it is given."""

    def __init__(self, num_envs: int) -> None:
        self.position = torch.zeros(num_envs, 1)
        self.velocity = torch.zeros(num_envs, 1)
        self.force = torch.zeros(num_envs, 1)

    def step(self, render: bool = True) -> None:
        self.velocity = 0.9 * self.velocity + 0.1 * self.force
        self.position = self.position + 0.1 * self.velocity
