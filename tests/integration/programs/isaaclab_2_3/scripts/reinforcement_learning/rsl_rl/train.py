"""Takes the place of Isaac Lab 2.3's training script, whose simulator needs Kit: same arguments, same real rsl_rl 3."""

from __future__ import annotations

import argparse
import os

import torch
from isaaclab_rl.rsl_rl.vecenv_wrapper import PointMass, RslRlVecEnvWrapper
from rsl_rl.runners import OnPolicyRunner

parser = argparse.ArgumentParser()
parser.add_argument("--task", required=True)
for number in ("--num_envs", "--max_iterations", "--seed"):
    parser.add_argument(number, type=int, required=True)
parser.add_argument("--distributed", action="store_true")
parser.add_argument("--headless", action="store_true")
args, settings = parser.parse_known_args()
hydra = dict(setting.split("=", 1) for setting in settings)

seed = args.seed + int(os.environ["LOCAL_RANK"])  # as the script of 2.3 does with --distributed
torch.manual_seed(seed)
configuration = {
    "num_steps_per_env": int(hydra["agent.num_steps_per_env"]),
    "save_interval": 50,
    "obs_groups": {"policy": ["policy"]},
    "policy": {"class_name": "ActorCritic", "actor_hidden_dims": [16], "critic_hidden_dims": [16]},
    "algorithm": {
        "class_name": "PPO",
        "num_learning_epochs": int(hydra["agent.algorithm.num_learning_epochs"]),
        "num_mini_batches": int(hydra["agent.algorithm.num_mini_batches"]),
        "learning_rate": 0.003,
    },
}
environment = RslRlVecEnvWrapper(PointMass(args.num_envs, seed))
runner = OnPolicyRunner(environment, configuration, log_dir=os.path.join("logs", args.task), device="cpu")
runner.learn(num_learning_iterations=args.max_iterations, init_at_random_ep_len=False)
