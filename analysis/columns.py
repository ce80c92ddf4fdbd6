"""Which column of somebody's table is which quantity: names, units and number formats as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from paceline.bench.errors import RecordError

# Canonical name: headers that mean it, as `normalise` leaves them. The first column of a file that fits wins.
NUMBER_ALIASES: Mapping[str, str] = {
    "world_size": (
        "world_size num_gpus n_gpus ngpus gpus gpu num_gpu gpu_count number_of_gpus no_of_gpus gpus_used n ranks "
        "num_ranks nranks "
        "processes num_processes np nproc devices num_devices workers n_devices"
    ),
    "num_nodes": "num_nodes nodes nnodes n_nodes node_count",
    "rank": "rank global_rank",
    "num_envs": (
        "num_envs total_envs num_envs_total total_num_envs envs n_envs nenvs environments num_environments "
        "number_of_environments env_count global_envs global_num_envs parallel_envs"
    ),
    "num_envs_per_rank": (
        "num_envs_per_rank num_envs_per_gpu envs_per_gpu envs_per_rank num_envs_per_process envs_per_process "
        "num_envs_per_device environments_per_gpu env_per_gpu per_gpu_envs"
    ),
    "horizon": "horizon horizon_length rollout_length num_steps_per_env steps_per_env num_steps horizon_steps",
    "minibatch_size_per_rank": (
        "minibatch_size_per_rank minibatch_size mini_batch_size minibatch mini_batch minibatch_size_per_gpu"
    ),
    "num_minibatches": "num_minibatches num_mini_batches minibatches mini_batches",
    "num_epochs": "num_epochs mini_epochs num_learning_epochs learning_epochs",
    "optimizer_steps_per_iteration": "optimizer_steps_per_iteration optimizer_steps optimiser_steps",
    "global_batch": "global_batch global_batch_size frames_per_iteration frames_per_epoch steps_per_iteration",
    "fps_step": (
        "fps_step step_fps env_step_fps env_fps step_only_fps fps_env_step env_step environment_step "
        "environment_stepping env_stepping "
        "stepping step sim_fps fps_env_step_only"
    ),
    "fps_step_inference": (
        "fps_step_inference step_inference_fps step_inference step_inf fps_step_inf step_inference_rate inference "
        "env_step_inference "
        "stepping_inference environment_step_inference"
    ),
    "collection_fps": "collection_fps fps_collection rollout_fps fps_rollout",
    "total_fps": (
        "total_fps fps_total fps total throughput frames_per_s frames_per_sec frames_per_second steps_per_s "
        "steps_per_sec "
        "steps_per_second sps env_steps_per_s env_steps_per_second samples_per_s samples_per_second training_fps "
        "train_fps "
        "step_inference_rl_update_fps env_step_inference_train fps_step_inference_rl_update overall_fps "
        "median_total_fps "
        "computation env_steps_per_sec"
    ),
    "total_fps_low": "total_fps_low fps_total_low",
    "total_fps_high": "total_fps_high fps_total_high",
    "iteration_time_s": (
        "iteration_time time_per_iteration time_per_epoch epoch_time s_per_epoch s_per_iteration s_per_iter "
        "sec_per_epoch "
        "seconds_per_epoch seconds_per_iteration seconds_per_iter time_per_iter iter_time time_epoch time_iteration "
        "time t wall_time "
        "runtime seconds elapsed sec_per_iter secs_per_epoch s_per_it total_time"
    ),
    "collection_time_s": "collection_time rollout_time play_time step_inference_time",
    "env_step_time_s": "env_step_time step_time",
    "physics_time_s": "physics_time sim_time",
    "inference_time_s": "inference_time",
    "update_time_s": "update_time learning_time learn_time rl_update_time train_time",
    "communication_time_s": "communication_time allreduce_time all_reduce_time nccl_time",
    "speedup": "speedup speed_up",
    "efficiency": "efficiency scaling_efficiency parallel_efficiency",
    "iteration": "iteration epoch iter it",
    "frames_total": "frames_printed frames_total total_frames frames total_timesteps total_steps",
    "repeats": "repeats num_repeats n_runs num_runs runs jobs samples_n replicates",
    "repeat": "repeat run replicate trial",
    "seed": "seed",
    "iterations": "iterations num_iterations max_iterations iterations_measured max_epochs epochs",
    "warmup_iterations": "warmup_iterations warmup warm_up warmup_steps skipped_iterations discarded_iterations",
    "steady_cut": "steady_cut mser_cut",
    "throttled_pct": "throttled_pct throttled throttle_pct throttled_percent throttle_share_pct",
    "foreign_processes": "foreign_processes other_processes",
    "other_cpu_pct": "other_cpu_pct foreign_cpu_pct",
    "sm_clock_mhz": "sm_clock_mhz sm_clock gpu_clock_mhz gpu_clock sm_mhz",
    "gpu_power_w": "gpu_power_w power_w power gpu_power",
}  # fmt: skip
TEXT_ALIASES: Mapping[str, str] = {
    "task": "task task_name env env_id environment_id env_name",
    "library": "library rl_library trainer framework rl_framework",
    "gpu": "gpu_model gpu_name gpu_type gpu device_name accelerator gpu_sku",
    "cpu": "cpu cpu_model processor cpu_name host_cpu",
    "cpu_cores": "cpu_cores cores num_cores logical_cores cpu_count",
    "driver": "driver driver_version nvidia_driver",
    "image": "image container container_image",
    "node_type": "node_type instance_type machine machine_type",
    "node": "node hostname host",
    "mode": "mode kind scaling scaling_mode scaling_type study_type",
    "physics": "physics physics_engine physics_backend",
    "isaaclab_version": "isaaclab_version isaaclab isaac_lab isaac_lab_version",
    "isaacsim_version": "isaacsim_version isaacsim isaac_sim isaac_sim_version",
    "torch_version": "torch_version torch pytorch pytorch_version",
    "cuda_version": "cuda_version cuda",
    "nccl_version": "nccl_version nccl",
    "python_version": "python_version python",
    "library_version": "library_version rl_library_version",
    "physics_version": "newton_version newton physx_version warp_version",
    "paceline_version": "paceline_version paceline",
    "physics_valid": "physics_valid valid physics_ok",
    "profiled": "profiled profiler nsys",
    "sync": "sync measurement_mode timing_mode sync_mode",
    "status": "status",
    "cause": "cause failure",
    "throttle": "throttle throttled throttle_reason throttle_reasons clocks_throttle_reasons",
    "remark": "remark remarks note notes comment comments warning warnings",
    "scope": "scope timing_scope measurement_scope timed_on",
}

_NUMBER_BY_ALIAS = {alias: name for name, aliases in NUMBER_ALIASES.items() for alias in aliases.split()}
_TEXT_BY_ALIAS = {alias: name for name, aliases in TEXT_ALIASES.items() for alias in aliases.split()}
_RATE_UNIT = re.compile(r"_(?:env_)?(?:frames|steps|samples)_per_(?:s|sec|second)$|_(?:sps|hz)$")
_TIME_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_TRAILING = re.compile(r"_(?:stated|intended|measured|mean|avg|average|median|samples|steps)$")
_NUMBER = re.compile(r"([~≈<>]?)\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMG]?)\s*(?:x|%)?")
_FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_MISSING = {"", "-", "--", "\u2013", "\u2014", "n/a", "na", "none", "null", "?", "not stated", "unknown"}


def normalise(header: str) -> str:
    """Return a header as lower_case_with_underscores: ``FPS step + inference`` -> ``fps_step_inference``."""
    name = re.sub(r"([a-z])([A-Z][a-z])", r"\1_\2", header.strip()).lower()
    name = name.replace("µ", "u").replace("#", "num_").replace("/", "_per_").replace("%", "_pct")
    name = re.sub(r"\b(?:and|policy|the)\b", " ", name.replace("_", " "))
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", name)).strip("_")


def identify(header: str, numeric: bool) -> tuple[str, float] | None:
    """Return the quantity a column holds and the factor to its unit, or None if its name says nothing to us.

    Args:
        header: As written in the file.
        numeric: Whether the column's cells are numbers: ``gpu`` is a count in one table and a model in the next.
    """
    name = normalise(header)
    while True:
        if not numeric and name in _TEXT_BY_ALIAS:
            return _TEXT_BY_ALIAS[name], 1.0
        if numeric and name in _NUMBER_BY_ALIAS:
            return _NUMBER_BY_ALIAS[name], 1.0
        if name in _TEXT_BY_ALIAS:
            return _TEXT_BY_ALIAS[name], 1.0
        head, _, unit = name.rpartition("_")
        if numeric and unit in _TIME_UNITS and _NUMBER_BY_ALIAS.get(head, "").endswith("_s"):
            return _NUMBER_BY_ALIAS[head], _TIME_UNITS[unit]
        shorter = _RATE_UNIT.sub("", name)
        shorter = _TRAILING.sub("", name) if shorter == name else shorter
        if shorter == name or not shorter:
            return None
        name = shorter


def parse_number(text: str, where: str, *, positive: bool = False) -> float | None:
    """Return the number in a cell, None for an empty one; RecordError for NaN, a negative number or no number.

    Reads ``1,146,000``, ``1.1M``, ``910k``, ``~35``, ``1.06x`` and ``36 %``.
    """
    cell = text.strip()
    if cell.lower() in _MISSING:
        return None
    if cell.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise RecordError(f"{where}: {cell!r} is not a number; leave a missing value empty")
    plain = re.sub(r"(?<=\d)[,\u2009\u202f' _](?=\d{3}\b)", "", cell)
    match = _NUMBER.fullmatch(plain)
    if match is None:
        raise RecordError(f"{where}: {cell!r} is not a number")
    value = float(match.group(2)) * _FACTORS[match.group(3)]
    if value != 0 and not 1e-15 < abs(value) < 1e18:
        raise RecordError(f"{where}: {cell!r} is no number that a result can have")
    if value < 0 or (positive and value == 0):
        raise RecordError(
            f"{where}: {cell!r} is {'negative' if value < 0 else 'zero'}; only positive numbers make sense here"
        )
    return value


def looks_numeric(cells: list[str]) -> bool:
    """Return whether most of the non-empty cells of a column read as numbers."""
    filled = [cell for cell in cells if cell.strip().lower() not in _MISSING]
    if not filled:
        return False
    good = 0
    for cell in filled:
        if cell.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
            good += 1
            continue
        try:
            parse_number(cell.strip().lstrip("-"), "")
            good += 1
        except RecordError:
            pass
    return good * 2 > len(filled)
