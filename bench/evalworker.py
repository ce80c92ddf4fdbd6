"""Plays one cell of an evaluation: one checkpoint in one task, for a number of episodes. Scope: one process.

    python -m paceline.bench.evalworker CELL.json RECORD.jsonl

Isaac Lab's own play benchmark (`isaaclab benchmark play`) makes the environment and loads the policy; only its loop is
replaced. That one averages over whatever episodes end within a number of steps, so short episodes count too often. Here
every environment plays the same number of episodes from the beginning, and each is a line of the record.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from paceline.bench import garbage
from paceline.bench.checkpointcontents import network_mismatch
from paceline.bench.rankfile import one_line
from paceline.profiling.nvml import Gpu, Nvml, open_nvml

EVALUATION_SCHEMA = "paceline.evaluation/1"
_WARM_UP_STEPS = 1


class Record:
    """The open record of a cell. Every line goes to the operating system as it is made."""

    def __init__(self, path: Path) -> None:
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        self.episodes = 0

    def line(self, value: dict[str, Any]) -> None:
        """Write one line."""
        self._stream.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()


class Player:
    """Plays a policy until every environment has finished its episodes."""

    def __init__(self, cell: dict[str, Any], record: Record, began: float) -> None:
        self.cell = cell
        self.record = record
        self.began = began
        self.per_env = -(-int(cell["episodes"]) // int(cell["num_envs"]))
        self.facts: dict[str, Any] = {}

    def play(self, env: Any, policy: Any, num_steps: int) -> tuple[list[float], None, None, float | None]:
        """Play, in the place of Isaac Lab's ``run_play_loop``; return the step times and the success rate."""
        import torch

        garbage.running()
        inner = env.unwrapped
        num_envs, device = inner.num_envs, inner.device
        longest = int(inner.max_episode_length)
        obs = env.reset()
        obs = obs[0] if isinstance(obs, tuple) else obs
        total = torch.zeros(num_envs, device=device)
        length = torch.zeros(num_envs, device=device)
        finished = torch.zeros(num_envs, dtype=torch.long, device=device)
        times: list[float] = []
        successes: list[float] = []
        from_task = False
        ready = time.perf_counter()
        memory = _DeviceMemory(str(device))
        limit = self.per_env * (longest + 1) + _WARM_UP_STEPS + 10
        while len(times) < limit:
            start = time.perf_counter()
            with torch.inference_mode():
                obs, reward, dones, extras = env.step(policy(obs))[:4]
            times.append(time.perf_counter() - start)
            total += torch.as_tensor(reward, dtype=torch.float32, device=device).reshape(num_envs)
            length += 1.0
            done = torch.as_tensor(dones, device=device).reshape(num_envs).bool()
            if not bool(done.any()):
                continue
            with torch.inference_mode():  # as they were made
                reset_states(policy, done)
            counts = done & (finished < self.per_env)
            timed_out = extras.get("time_outs") if isinstance(extras, dict) else None
            reported = _success(extras)
            from_task = from_task or reported is not None
            for index in torch.nonzero(counts).flatten().tolist():
                ended = bool(timed_out[index]) if timed_out is not None else bool(length[index] >= longest)
                success = reported if reported is not None else float(ended)
                successes.append(success)
                self.record.episodes += 1
                steps = int(length[index])
                value = float(total[index])
                self.record.line(
                    {
                        "episode": self.record.episodes,
                        "env": index,
                        "reward": value if math.isfinite(value) else None,
                        "length": steps,
                        "timed_out": ended,
                        "success": success,
                    }
                )
            finished += done
            total[done] = 0.0
            length[done] = 0.0
            memory.look()
            if bool((finished >= self.per_env).all()):
                break
        seconds = time.perf_counter() - ready
        self.facts = {
            "start_up_s": round(ready - self.began, 3),
            "play_s": round(seconds, 3),
            "steps": len(times),
            "step_fps": len(times) * num_envs / seconds,
            "success_from": "task" if from_task else "time_out",
            "device_memory_bytes": memory.peak_bytes,
        }
        while len(times) <= _WARM_UP_STEPS + 1:  # its bundle needs steps after the warm-up
            times.append(times[-1])
        return times, None, None, sum(successes) / len(successes) if successes else None


def reset_states(policy: Any, done: Any) -> None:
    """Reset the recurrent states of episodes that have ended: by rsl_rl's policy itself, or in rl_games' player.

    Isaac Lab's play benchmark hands over a plain function around that player.
    """
    if hasattr(policy, "reset"):
        policy.reset(done)
        return
    player = inspect.getclosurevars(policy).nonlocals.get("agent") if inspect.isfunction(policy) else None
    if getattr(player, "is_rnn", False) and player is not None:
        for state in player.states or ():
            state[:, done, :] = 0.0


class _DeviceMemory:
    """Most device memory of this process's GPU that was in use by all its processes, above what was when it began.

    Both values are NVML's. CUDA counts without what the driver reserves (half a GB on some GPUs), so a difference
    between the two would be too small by that.
    """

    gpu: _Gpu | None = None
    """Set before this process touches the GPU; None on the CPU, or if NVML does not tell."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self.peak_bytes: int | None = None
        self.look()

    def look(self) -> None:
        """Take note of the memory in use now; without NVML all of it, which errs to the safe side."""
        if not self._cuda:
            return
        used = self.gpu.grown_bytes() if self.gpu is not None else None
        if used is None:
            import torch

            free, total = torch.cuda.mem_get_info()
            used = total - free
        self.peak_bytes = max(self.peak_bytes or 0, used)


class _Gpu:
    """The first GPU that this process may use, as NVML sees it."""

    def __init__(self, nvml: Nvml, gpu: Gpu) -> None:
        self._nvml, self._gpu = nvml, gpu
        self._before_bytes = nvml.memory_used_bytes(gpu) or 0

    def grown_bytes(self) -> int | None:
        """Return how much more memory is in use than when this was made; None if NVML does not tell."""
        used = self._nvml.memory_used_bytes(self._gpu)
        return None if used is None else used - self._before_bytes

    @classmethod
    def visible(cls) -> _Gpu | None:
        """Return it, None without NVML."""
        nvml = open_nvml()
        found = nvml.of_job(os.environ.get("CUDA_VISIBLE_DEVICES"), 1) if nvml is not None else []
        return cls(nvml, found[0]) if nvml is not None and found else None


def _success(extras: Any) -> float | None:
    """Return what the task reports as success at this step, None if it reports none."""
    for group in ("log", "episode"):
        values = extras.get(group) if isinstance(extras, dict) else None
        for name, value in values.items() if isinstance(values, dict) else ():
            if "success" in str(name).lower():
                return float(value)
    return None


def arguments(cell: dict[str, Any], output: Path) -> list[str]:
    """Return the arguments of Isaac Lab's play benchmark for a cell."""
    found = ["--rl_library", cell["trainer"], "--task", cell["task"], "--num_envs", str(cell["num_envs"])]
    found += ["--seed", str(cell["seed"]), "--checkpoint", cell["checkpoint"], "--output_path", str(output)]
    found += ["--num_steps", "1", "--warmup_steps", str(_WARM_UP_STEPS), "--viz", "none", "--device", cell["device"]]
    if cell.get("physics"):
        found.append(f"physics={cell['physics']}")
    found.append(f"env.sim.device={cell['device']}")  # Isaac Lab 3.0.0's play benchmark does not apply --device
    if cell["trainer"] == "rsl_rl":
        found.append(f"agent.device={cell['device']}")
    else:
        found += [f"agent.params.config.{key}={cell['device']}" for key in ("device", "device_name")]
    return [*found, *cell.get("overrides", [])]


def main() -> int:
    """Play the cell; exit status 0 if all its episodes are recorded."""
    began = time.perf_counter()
    garbage.starting()
    cell = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    path = Path(sys.argv[2]).absolute()
    record = Record(path)
    record.line(
        {"type": "header", "schema": EVALUATION_SCHEMA, "began_unix_s": time.time(), "pid": os.getpid(), **cell}
    )
    player = Player(cell, record, began)
    wanted = player.per_env * int(cell["num_envs"])
    error: str | None = None
    try:
        _play(cell, player, path.with_suffix(".isaaclab"))
    except BaseException as problem:
        error = network_mismatch(str(cell["checkpoint"]), problem) or one_line(problem)
        raise
    finally:
        # The episodes decide: what comes after the last one (Isaac Lab's own summary, its exit) takes nothing away.
        status = "completed" if record.episodes == wanted else "failed"
        error = error or (None if status == "completed" else f"{record.episodes} of {wanted} episodes ended")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        record.line(
            {
                "type": "end",
                "status": status,
                "error": error,
                "episodes": record.episodes,
                "wall_s": round(time.perf_counter() - began, 3),
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
                "rss_bytes": usage.ru_maxrss * 1024,
                **player.facts,
            }
        )
    garbage.ending(str(cell["device"]))
    return 0 if status == "completed" else 1


def _play(cell: dict[str, Any], player: Player, output: Path) -> None:
    threads = int(cell.get("threads", 1))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    output.mkdir(exist_ok=True)
    os.chdir(output)
    import torch

    torch.set_num_threads(threads)
    if cell["device"].startswith("cuda"):
        _DeviceMemory.gpu = _Gpu.visible()
    import warp
    from isaaclab.benchmark import stepping
    from isaaclab.benchmark.dispatch import run_benchmark_cli

    warp.config.enable_backward = False
    stepping.run_play_loop = player.play
    run_benchmark_cli(["play", *arguments(cell, output)])


if __name__ == "__main__":
    sys.exit(main())
