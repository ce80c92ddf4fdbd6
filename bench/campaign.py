"""A campaign folder: made from a preset for one site, opened again, its starts and their states."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench import checkpoint as checkpoints
from paceline.bench import cluster as cluster_module
from paceline.bench import local
from paceline.bench.campaignfile import RESUME_SCHEMA, Campaign, CampaignDir, segment_json
from paceline.bench.checkpointcontents import Contents, read_contents
from paceline.bench.cluster import Cluster, load_cluster
from paceline.bench.errors import LaunchError, RecordError, StudyError
from paceline.bench.preset import Preset, load_preset, override, to_yaml
from paceline.bench.presetcheck import Checked
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json
from paceline.bench.status import State, iterations_done, run_state, waiting_job

EXTENDABLE = frozenset(
    {
        *("description", "iterations", "frames", "reward", "reward_window", "hours", "save_interval", "keep", "alerts"),
        *("expected_fps", "time_limit_min", "jobs_ahead", "max_failures", "metrics_port"),
    }
)
"""Keys of a preset that may change while a campaign is under way."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a campaign."""

    run: RunDir
    state: State
    cause: str | None
    message: str | None
    job_id: str | None
    start_iteration: int | None
    """Where it resumed; None until it has begun."""
    iterations_done: int
    """Iterations of the campaign that were done when it last recorded one; 0 if it has recorded none."""

    @property
    def trained(self) -> bool:
        """Whether it has recorded an iteration of its own."""
        return self.iterations_done > (self.start_iteration or 0)


@dataclass(frozen=True, kw_only=True)
class OpenCampaign:
    """A campaign folder with what is planned in it."""

    folder: CampaignDir
    preset: Preset
    campaign: Campaign
    cluster: Cluster
    case: Case

    @property
    def directory(self) -> StudyDir:
        """The same folder with the names that it shares with a study folder."""
        return StudyDir(self.folder.path)

    def runs(self) -> list[RunDir]:
        """Return the folders of all starts, oldest first; a goal that was extended makes another case."""
        runs = [run for run in self.directory.all_runs() if run.case_json.exists()]
        return sorted(runs, key=lambda run: (_submitted_unix_s(run), run.attempt))

    def starts(self) -> list[Start]:
        """Return all starts that were ever launched, oldest first; asks the scheduler at most once."""
        runs = self.runs()
        waiting = [job for run in runs if (job := waiting_job(run)) is not None]
        states: Mapping[str, Mapping[str, str]] = {}
        if waiting:
            from paceline.bench.slurm import job_states

            states = job_states(waiting)
        found = []
        for run in runs:
            state, cause, message, job_id = run_state(run, states)
            if state != "missing":
                found.append(
                    Start(
                        run=run,
                        state=state,
                        cause=cause,
                        message=message,
                        job_id=job_id,
                        start_iteration=_start_iteration(run),
                        iterations_done=iterations_done(run),
                    )
                )
        return found


def make_case(preset: Preset, checked: Checked, cluster: Cluster) -> Case:
    """Return the case that all starts of a campaign are attempts at.

    Raises:
        StudyError: Environments or minibatches do not divide, or the site has no such devices.
    """
    device = _device(preset, cluster)
    if preset.time_limit_min is not None and preset.time_limit_min * 60 <= cluster.signal_s:
        raise StudyError(
            f"preset {preset.name}: time_limit_min {preset.time_limit_min}: cluster profile {cluster.name!r} tells "
            f"jobs to stop signal_s {cluster.signal_s} s before the limit, so a job needs more than that"
        )
    horizon = checked.agent["horizon"]
    batch_per_rank = preset.num_envs // preset.world_size * horizon
    minibatches = checked.agent.get("num_minibatches")
    if minibatches is None:
        minibatches = _minibatches(preset, batch_per_rank, checked.agent["minibatch_size"])
    iterations = preset.iterations_of(preset.num_envs * horizon)
    wandb: dict[str, str] = {"WANDB_MODE": preset.wandb.mode} if preset.wandb else {}
    if preset.wandb and preset.wandb.entity:
        wandb["WANDB_ENTITY"] = preset.wandb.entity
    try:
        return Case(
            kind="training",
            task=preset.task,
            trainer=preset.trainer,
            world_size=preset.world_size,
            num_envs=preset.num_envs,
            horizon=horizon,
            num_minibatches=minibatches,
            num_epochs=checked.agent["num_epochs"],
            iterations=iterations,
            warmup_iterations=min(5, iterations - 1),
            repeat=0,
            seed=preset.seed,
            device=device,
            num_nodes=preset.num_nodes,
            sync_every=preset.sync_every,
            threads_per_rank=preset.threads_per_rank,
            physics=preset.physics,
            gpu_type=cluster.gpu_type if device == "cuda" else None,
            image=cluster.runtime.image,
            overrides=tuple(override(key, value) for key, value in checked.settings.items()),
            environment=tuple(sorted({**preset.environment, **wandb}.items())),
        )
    except ValueError as error:
        raise StudyError(f"preset {preset.name}: {error}") from error


def create(folder: Path, preset: Preset, checked: Checked, cluster: Cluster) -> OpenCampaign:
    """Make or reopen a campaign folder; LaunchError if it holds something else, or cannot be written."""
    directory = CampaignDir(Path(os.path.abspath(folder)))
    case = make_case(preset, checked, cluster)
    if directory.exists():
        _require_same(directory, preset)
    elif StudyDir(directory.path).study_yaml.exists():
        raise LaunchError(f"{folder}: holds a study; choose another folder with --folder")
    elif directory.path.exists() and any(directory.path.iterdir()):
        raise LaunchError(f"{folder}: not a campaign folder and not empty; choose another with --folder")
    campaign = Campaign(
        name=preset.name,
        iterations=case.iterations,
        frames=preset.frames,
        reward=preset.reward,
        reward_window=preset.reward_window,
        hours=preset.hours,
        save_interval=preset.save_interval,
        keep_last=preset.keep.last,
        keep_every=preset.keep.every,
        keep_best=preset.keep.best,
        max_failures=preset.max_failures,
        expected_fps=preset.expected_fps,
        metrics_port=preset.metrics_port,
        wandb_project=preset.wandb.project if preset.wandb else None,
        alerts=preset.alerts.model_dump(),
    )
    study = StudyDir(directory.path)
    try:
        study.runs.mkdir(parents=True, exist_ok=True)
        study.cluster_yaml.write_text(cluster_module.to_yaml(cluster), encoding="utf-8")
        directory.preset_yaml.write_text(to_yaml(preset), encoding="utf-8")
        write_json(directory.path / "case.json", case.to_json())
        # Last: it makes the folder a campaign folder. What completed under the same goals stays completed.
        if not directory.exists() or directory.read() != campaign:
            write_json(directory.campaign_json, campaign.to_json())
    except OSError as error:
        raise LaunchError(f"{folder}: cannot write the campaign folder ({error.strerror})") from error
    return OpenCampaign(folder=directory, preset=preset, campaign=campaign, cluster=cluster, case=case)


def open_campaign(folder: Path) -> OpenCampaign:
    """Return the campaign that a folder holds; LaunchError if it holds none."""
    directory = CampaignDir(Path(os.path.abspath(folder)))
    if not directory.exists():
        raise LaunchError(f"{folder}: not a campaign folder (it has no campaign.json); `paceline train` makes one")
    case = Case.from_json(read_json(directory.path / "case.json"), str(directory.path / "case.json"))
    return OpenCampaign(
        folder=directory,
        preset=load_preset(directory.preset_yaml),
        campaign=directory.read(),
        cluster=load_cluster(StudyDir(directory.path).cluster_yaml),
        case=case,
    )


def default_folder(preset: Preset, cluster: Cluster) -> Path:
    """Return where a campaign's folder goes when none is named."""
    return Path(cluster.results).expanduser() / f"{preset.name}-{cluster.name}"


def request_resume(
    opened: OpenCampaign, source: Path | None, hidden_layers: Mapping[str, list[int]]
) -> Contents | None:
    """Note that the campaign goes on, from a named checkpoint if one is given; what failed before counts no more.

    Args:
        opened: The campaign.
        source: A checkpoint, of this campaign or another; None: the newest that is whole.
        hidden_layers: Widths that the campaign's networks have, as far as known.

    Returns:
        What the checkpoint holds, None if none was named.

    Raises:
        LaunchError: The checkpoint is missing, damaged, of another trainer, or of another network.
    """
    request: dict[str, Any] = {"schema": RESUME_SCHEMA, "checkpoint": None, "requested_unix_s": time.time()}
    contents = None
    if source is not None:
        source = Path(os.path.abspath(source))
        contents = check_checkpoint(source, opened.case, hidden_layers)
        kept = checkpoints.keep(source, opened.folder.checkpoints, f"resumed-from-{source.name}")
        request |= {"checkpoint": str(kept), "sha256": checkpoints.sha256(kept), "source": str(source)}
    write_json(opened.folder.resume_json, request)
    return contents


def check_checkpoint(path: Path, case: Case, hidden_layers: Mapping[str, list[int]]) -> Contents:
    """Return what a checkpoint holds; LaunchError in one line if a campaign cannot go on from it."""
    reason = checkpoints.why_incomplete(path)
    if reason is not None:
        raise LaunchError(f"checkpoint {path}: {reason}")
    try:
        contents = read_contents(path)
    except RecordError as error:
        raise LaunchError(str(error)) from error
    if contents.trainer != case.trainer:
        raise LaunchError(f"checkpoint {path}: is one of {contents.trainer}, the campaign trains with {case.trainer}")
    for network, widths in hidden_layers.items():
        found = contents.layer_widths(network)
        if found and found[: len(widths)] != widths:
            raise LaunchError(
                f"checkpoint {path}: its {network} has layers of {found[:-1]}, the preset makes {widths}: "
                "another network cannot go on from it"
            )
    if contents.next_iteration >= case.iterations:
        raise LaunchError(
            f"checkpoint {path}: holds {contents.next_iteration} iterations, the campaign ends at {case.iterations}; "
            "state more with --set iterations=N"
        )
    return contents


def _require_same(directory: CampaignDir, preset: Preset) -> None:
    before = load_preset(directory.preset_yaml).model_dump()
    for key, value in preset.model_dump().items():
        if key not in EXTENDABLE and before.get(key) != value:
            raise LaunchError(
                f"{directory.path}: holds another campaign ({key} is {before.get(key)!r} there and {value!r} here); "
                "choose another folder with --folder"
            )


def _device(preset: Preset, cluster: Cluster) -> Any:
    gpus = local.visible_gpus() if cluster.scheduler == "local" else cluster.gpus_per_node or 0
    device = ("cuda" if gpus else "cpu") if preset.device == "auto" else preset.device
    if device == "cuda" and preset.world_size // preset.num_nodes > gpus:
        place = "this machine has" if cluster.scheduler == "local" else f"a node of {cluster.name!r} has"
        raise StudyError(
            f"preset {preset.name}: asks for {preset.world_size // preset.num_nodes} GPUs on a node, {place} {gpus}"
        )
    return device


def _minibatches(preset: Preset, batch: int, size: int) -> int:
    """Return the minibatches of rl_games, which is told their size; a smaller batch is one minibatch."""
    if batch < size:
        return 1
    if batch % size:
        raise StudyError(
            f"preset {preset.name}: the batch of a rank, {batch}, does not divide by rl_games' minibatch_size {size}; "
            "state agent.params.config.minibatch_size"
        )
    return batch // size


def _submitted_unix_s(run: RunDir) -> float:
    try:
        return float(read_json(run.launch_json)["submitted_unix_s"])
    except (FileNotFoundError, RecordError, KeyError, ValueError):
        return run.case_json.stat().st_mtime


def _start_iteration(run: RunDir) -> int | None:
    try:
        return int(read_json(segment_json(run.path))["start_iteration"])
    except (FileNotFoundError, RecordError, KeyError, ValueError):
        return None
