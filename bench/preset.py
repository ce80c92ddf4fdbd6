"""Preset: one training campaign, as a file states it. Shipped ones lie in bench/presets/.

Everything that a task's configuration knows can be set: ``agent`` (PPO, network), ``env``, and by short names
``rewards`` (a number is the weight, null removes the term) and ``events``. `bench.presetcheck` holds these against the
task's real configuration before anything is queued.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from paceline.bench import yamlfile
from paceline.bench.errors import StudyError
from paceline.bench.filemodel import FileModel, Line, Text, nearest, validate
from paceline.bench.shell import check_environment
from pydantic import Field, field_validator, model_validator

PRESET_SCHEMA = "paceline.preset/1"
_ENDLESS = 10_000_000

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Above = Annotated[float, Field(gt=0, strict=False)]
Number = Annotated[float, Field(strict=False)]


class Keep(FileModel):
    """Which checkpoints stay."""

    last: NotNegative = 3
    """The newest so many; 0 keeps all."""
    every: NotNegative = 0
    """Those of every so-manieth iteration as well; 0: none by this rule."""
    best: NotNegative = 1
    """Those with the highest reward as well; they are also copied to checkpoints/ when the campaign ends."""


class Wandb(FileModel):
    """Logging to Weights & Biases, if it is installed in the jobs' Python."""

    project: Line
    """Project name."""
    entity: Line | None = None
    """Team or user."""
    mode: Literal["online", "offline"] = "online"
    """offline: write to disk only; `wandb sync` sends it later."""


class Alerts(FileModel):
    """Limits of the alert rules; null switches a rule off."""

    flat_reward_iterations: Positive | None = 1000
    """The mean reward has not risen over so many iterations."""
    short_episode_steps: Above | None = None
    """Mean episode length below this."""
    short_episode_s: Above | None = None
    """Likewise, in seconds of simulated time (needs step_s)."""
    step_s: Above | None = None
    """Simulated time of one environment step."""
    after_iterations: NotNegative = 100
    """Rules on reward, episodes and curriculum are silent before so many iterations."""
    diverging_loss_factor: Above | None = 100.0
    """A loss above so many times its median."""
    min_learning_rate: Above | None = 1.0e-5
    """The learning rate is at or below this."""
    stuck_terrain_level: Number | None = 1.0
    """The terrain level has never been above this ..."""
    stuck_terrain_iterations: Positive = 2000
    """... after so many iterations."""
    min_fps_share: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Throughput below this share of expected_fps, or of the campaign's own best if none is stated."""
    max_gpu_temperature_c: Above | None = 85.0
    """A GPU of the job is hotter than this."""
    min_disk_free_gb: Above | None = 5.0
    """Room left on the file system of the campaign, in GB (10**9 bytes)."""
    no_checkpoint_min: Above | None = 60.0
    """No new checkpoint for so many minutes of training."""
    no_progress_min: Above | None = 30.0
    """A running job has recorded nothing for so many minutes."""


class Preset(FileModel):
    """A preset file."""

    schema_: Annotated[Literal["paceline.preset/1"], Field(alias="schema")] = "paceline.preset/1"
    """Version of this file format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the campaign: letters, digits, dot, hyphen and underscore."""
    description: Text | None = None
    """What it is for."""
    task: Line
    """Isaac Lab task id."""
    trainer: Literal["rsl_rl", "rl_games"] = "rsl_rl"
    """RL library."""
    physics: Line = "newton_mjwarp"
    """Isaac Lab physics preset."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where ranks run; auto: on GPUs if there are any."""
    num_envs: Positive
    """Environments of all ranks together."""
    world_size: Positive = 1
    """Ranks: one GPU (or CPU process) each."""
    num_nodes: Positive = 1
    """Nodes."""
    seed: NotNegative = 42
    """Base seed; rank r uses it plus r."""
    threads_per_rank: Positive = 1
    """CPU threads that each rank's libraries may use."""
    iterations: Positive | None = None
    """Done after so many iterations ..."""
    frames: Positive | None = None
    """... or environment steps of all ranks ..."""
    reward: Number | None = None
    """... or when the mean episode reward over reward_window iterations is at least this ..."""
    reward_window: Positive = 20
    """Iterations over which that mean is taken."""
    hours: Above | None = None
    """... or hours of training, all jobs together: whichever comes first."""
    save_interval: Positive = 50
    """Iterations between checkpoints."""
    keep: Keep = Keep()
    """Checkpoints that stay when newer ones are written."""
    expected_fps: Above | None = None
    """Environment steps per second of all ranks that the plan counts on."""
    time_limit_min: Positive | None = None
    """Time limit of one job in minutes (default: the cluster profile's)."""
    jobs_ahead: Positive | None = None
    """Jobs of the chain to queue at once (default: as many as hours and time limit ask for; 3 without hours)."""
    sync_every: NotNegative = 50
    """Every so-manieth iteration measures phase times with a synchronised device; 0: none."""
    max_failures: Positive = 3
    """Give up after so many jobs in a row that failed without a new checkpoint."""
    agent: dict[str, Any] = Field(default_factory=dict)
    """Settings of the agent, nested as in the task's own configuration."""
    env: dict[str, Any] = Field(default_factory=dict)
    """Settings of the environment, likewise."""
    rewards: dict[str, Any] = Field(default_factory=dict)
    """Reward terms by name: a weight, null to remove the term, or its settings."""
    events: dict[str, Any] = Field(default_factory=dict)
    """Event terms by name: null to remove the term, or its settings."""
    alerts: Alerts = Alerts()
    """When to raise an alarm."""
    wandb: Wandb | None = None
    """Weights & Biases."""
    metrics_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Port at which rank 0 answers Prometheus (needs prometheus_client in the jobs' Python)."""
    environment: dict[str, Text] = Field(default_factory=dict)
    """Environment variables of the training."""

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: dict[str, str]) -> dict[str, str]:
        return check_environment(value)

    @model_validator(mode="after")
    def _check_together(self) -> Preset:
        if self.iterations is None and self.frames is None and self.reward is None and self.hours is None:
            raise ValueError("says no end: state iterations, frames, reward or hours")
        if self.num_envs % self.world_size:
            raise ValueError(f"num_envs {self.num_envs} does not divide by world_size {self.world_size}")
        if self.world_size % self.num_nodes:
            raise ValueError(f"world_size {self.world_size} does not divide by num_nodes {self.num_nodes}")
        if self.alerts.short_episode_s is not None and self.alerts.step_s is None:
            raise ValueError("alerts.short_episode_s needs alerts.step_s, the simulated time of one environment step")
        if self.wandb is not None and self.trainer == "rl_games" and self.wandb.entity is None:
            raise ValueError("wandb.entity is missing; Isaac Lab's rl_games needs it")
        for key in self.settings():
            if not all(part.replace("-", "_").isidentifier() or part.isdigit() for part in key.split(".")):
                raise ValueError(f"{key}: is not a setting's name")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings of the task's configuration by their dotted names, such as env.rewards.alive.weight."""
        found = dict(_leaves(self.agent, "agent")) | dict(_leaves(self.env, "env"))
        for group, terms in (("rewards", self.rewards), ("events", self.events)):
            for name, term in terms.items():
                where = f"env.{group}.{name}"
                if group == "rewards" and isinstance(term, int | float) and not isinstance(term, bool):
                    found[f"{where}.weight"] = term
                else:
                    found |= dict(_leaves(term, where))
        return found

    def iterations_of(self, global_batch: int) -> int:
        """Return the iterations after which the campaign ends at the latest."""
        by_frames = -(-self.frames // global_batch) if self.frames is not None else _ENDLESS
        return min(self.iterations or _ENDLESS, by_frames)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or where in ("agent", "env")):
        for name, inner in value.items():
            yield from _leaves(inner, f"{where}.{name}")
    else:
        yield where, value


def override(key: str, value: Any) -> str:
    """Return a setting as Hydra's command line states it."""
    return f"{key}={_hydra(value)}"


def _hydra(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_hydra(item) for item in value) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)  # null, true, false and numbers are written alike


def shipped() -> dict[str, Path]:
    """Return the presets that come with Paceline, by name."""
    folder = Path(str(resources.files("paceline.bench").joinpath("presets")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_preset(source: str | Path, settings: Mapping[str, str] | None = None) -> Preset:
    """Return the preset in a file, or a shipped one by name, with ``--set`` settings applied.

    Args:
        source: Path or name.
        settings: Values by key as text; dotted keys reach inside (``rewards.alive``, ``agent.algorithm.gamma``).

    Raises:
        StudyError: The file or a setting is not valid; one line per problem.
    """
    path = Path(source)
    if not path.is_file() and str(source) in shipped():
        path = shipped()[str(source)]
    if not path.exists():
        near = nearest(str(source), shipped())
        raise StudyError(f"preset {str(source)!r}: no such file{near} (shipped presets: {', '.join(shipped())})")
    document = yamlfile.read(path, StudyError)
    yamlfile.require_schema(document, PRESET_SCHEMA, StudyError)
    data: dict[str, Any] = json.loads(json.dumps(document.data))
    for key, text in (settings or {}).items():
        _set(data, key, text)

    def origin(place: yamlfile.KeyPath) -> str | None:
        key = ".".join(str(part) for part in place)
        return next((f"--set {name}" for name in settings or {} if key == name or key.startswith(f"{name}.")), None)

    return validate(Preset, yamlfile.Document(data, document.lines, document.where), StudyError, origin)


def _set(data: dict[str, Any], key: str, text: str) -> None:
    if not text.strip():
        raise StudyError(f"--set {key}: the value is empty")
    *groups, name = key.split(".")
    here: Any = data
    for group in groups:
        here = here.setdefault(group, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict):
            raise StudyError(f"--set {key}: {group} is a value, not a group of settings")
    try:
        here[name] = text if name in ("task", "trainer", "name", "physics", "device") else yamlfile.parse_value(text)
    except ValueError as error:
        raise StudyError(f"--set {key}: {text!r} {error}") from error


def to_yaml(preset: Preset) -> str:
    """Return the text of a preset file that loads as an equal preset."""
    return yamlfile.dump(
        preset.model_dump(mode="json", by_alias=True, exclude_none=False, exclude_defaults=True)
        | {"schema": PRESET_SCHEMA}
    )
