"""ANYmal-C velocity tasks of Isaac Lab 3.0, for machines that cannot reach NVIDIA's asset server.

    Offline-Velocity-Flat-AnymalC     as IsaacContrib-Velocity-Flat-AnymalC
    Offline-Velocity-Rough-AnymalC    as IsaacContrib-Velocity-Rough-AnymalC: generated terrain, height scan

Stock configurations with three changes, for what lies on that server only: joints are DC motors instead of the LSTM
actuator network, and terrain and sky have no textures. What a step costs is therefore not what the stock task's costs.
README.md says where the robot comes from and where Isaac Lab looks for it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from isaaclab.utils import configclass
from isaaclab_assets.robots.anymal import ANYDRIVE_3_SIMPLE_ACTUATOR_CFG
from isaaclab_tasks.contrib.velocity.config.anymal_c import agents
from isaaclab_tasks.contrib.velocity.config.anymal_c.flat_env_cfg import AnymalCFlatEnvCfg
from isaaclab_tasks.contrib.velocity.config.anymal_c.rough_env_cfg import AnymalCRoughEnvCfg


def without_downloads(scene: Any) -> None:
    """Replace the parts of a scene that only the asset server has."""
    scene.robot.actuators = {"legs": ANYDRIVE_3_SIMPLE_ACTUATOR_CFG}
    scene.terrain.visual_material = None
    scene.sky_light = None


@configclass
class FlatEnvCfg(AnymalCFlatEnvCfg):  # type: ignore[misc]
    """Flat ground."""

    def __post_init__(self) -> None:
        """Change the scene after the stock configuration has made it."""
        super().__post_init__()
        without_downloads(self.scene)
        self.sim.physics.default = self.sim.physics.newton_mjwarp


@configclass
class RoughEnvCfg(AnymalCRoughEnvCfg):  # type: ignore[misc]
    """Generated terrain."""

    def __post_init__(self) -> None:
        """Change the scene after the stock configuration has made it."""
        super().__post_init__()
        without_downloads(self.scene)


for terrain, config in (("Flat", FlatEnvCfg), ("Rough", RoughEnvCfg)):
    gymnasium.register(
        id=f"Offline-Velocity-{terrain}-AnymalC",
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={
            "env_cfg_entry_point": f"{__name__}:{config.__name__}",
            "rsl_rl_cfg_entry_point": f"{agents.__name__}.rsl_rl_ppo_cfg:AnymalC{terrain}PPORunnerCfg",
            "rl_games_cfg_entry_point": f"{agents.__name__}:rl_games_{terrain.lower()}_ppo_cfg.yaml",
            "default_agent": "rsl_rl",
        },
    )
