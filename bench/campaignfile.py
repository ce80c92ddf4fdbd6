"""What a training campaign is to do, as its folder says it (campaign.json), and what one start of it resumes from.

A leaf module: standard library only. The job side reads these files inside an image that has nothing of ours installed.

    <campaign folder>/
        campaign.json                    what is to be done (`paceline.campaign/1`); makes the folder a campaign folder
        preset.yaml cluster.yaml code/   as in a study folder
        runs/<case_id>/attempt-<n>/      one start of the training: the files of any run, and
            segment.json                 what it resumed from (`paceline.segment/1`)
            training.jsonl               rank 0: losses, learning rate, checkpoints, iteration by iteration
        trainer/                         what Isaac Lab and the trainer write, all starts together (TensorBoard)
        checkpoints/                     copies to keep: the best and the last
        resume.json                      the checkpoint that `paceline resume --from` named, if any
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench import jsontext
from paceline.bench.errors import RecordError

CAMPAIGN_SCHEMA = "paceline.campaign/1"
SEGMENT_SCHEMA = "paceline.segment/1"
TRAINING_SCHEMA = "paceline.training/1"
RESUME_SCHEMA = "paceline.resume/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """A training campaign: when it is done, and how its checkpoints are kept."""

    name: str
    iterations: int
    """The campaign is done after so many; stated, or from the frames that were stated."""
    frames: int | None = None
    """... or after so many environment steps of all ranks."""
    reward: float | None = None
    """... or when the mean episode reward, averaged over reward_window iterations, is at least this."""
    reward_window: int = 20
    hours: float | None = None
    """... or when the training has run for so long, all starts together, start-up included."""
    save_interval: int = 50
    """Iterations between checkpoints."""
    keep_last: int = 3
    """Newest checkpoints that stay; 0 = all."""
    keep_every: int = 0
    """Every so-manieth iteration stays as well; 0 = none by this rule."""
    keep_best: int = 1
    """Checkpoints with the highest reward that stay as well."""
    max_failures: int = 3
    """Give up after so many starts in a row that ended in failure without a new checkpoint."""
    expected_fps: float | None = None
    """Throughput that the plan counts on, environment steps per second of all ranks."""
    metrics_port: int | None = None
    """Port at which rank 0 answers Prometheus; None = none."""
    wandb_project: str | None = None
    """Weights & Biases project that the trainer logs to; None = none."""
    alerts: dict[str, Any] = field(default_factory=dict)
    """Limits of the alert rules, by name (analysis/alerts.py lists them)."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of campaign.json."""
        return {"schema": CAMPAIGN_SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Campaign:
        """Return the campaign that campaign.json describes; RecordError if it is of another schema or damaged."""
        if not isinstance(data, Mapping) or data.get("schema") != CAMPAIGN_SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else None
            raise RecordError(f"{where}: schema is {found!r}, this version of Paceline reads {CAMPAIGN_SCHEMA!r}")
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in data.items() if name in names})
        except TypeError as error:
            raise RecordError(f"{where}: not a valid campaign: {error}") from error


class CampaignDir:
    """A campaign folder; only this class knows the names of what a study folder does not have."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def campaign_json(self) -> Path:
        """What is to be done."""
        return self.path / "campaign.json"

    @property
    def preset_yaml(self) -> Path:
        """The preset as it was given."""
        return self.path / "preset.yaml"

    @property
    def trainer(self) -> Path:
        """Working folder of all starts: logs/<library>/<experiment>/run/ is below it."""
        return self.path / "trainer"

    @property
    def checkpoints(self) -> Path:
        """Copies to keep."""
        return self.path / "checkpoints"

    @property
    def resume_json(self) -> Path:
        """The checkpoint that a person named to go on from."""
        return self.path / "resume.json"

    @property
    def alerts_jsonl(self) -> Path:
        """Alerts that a watcher has raised."""
        return self.path / "alerts.jsonl"

    def exists(self) -> bool:
        """Return whether this is a campaign folder."""
        return self.campaign_json.is_file()

    def read(self) -> Campaign:
        """Return the campaign; RecordError if there is none, or it is damaged."""
        try:
            data = jsontext.loads(self.campaign_json.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{self.path}: not a campaign folder (it has no campaign.json)") from None
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.campaign_json}: cannot be read ({error})") from error
        return Campaign.from_json(data, str(self.campaign_json))

    @staticmethod
    def of_run(run: Path) -> CampaignDir | None:
        """Return the campaign folder that a run folder lies in, None if it is a study's run."""
        parents = run.absolute().parents
        folder = CampaignDir(parents[2]) if len(parents) > 2 else None
        return folder if folder is not None and folder.exists() else None


def segment_json(run: Path) -> Path:
    """Return where a start notes what it resumed from."""
    return run / "segment.json"


def training_jsonl(run: Path) -> Path:
    """Return where rank 0 of a start writes what the trainer says, iteration by iteration."""
    return run / "training.jsonl"


def runs_in_order(folder: Path) -> list[Path]:
    """Return the folders of all starts of a campaign that have a record of rank 0, in the order of their start times.

    A start that Slurm requeued has the records of its earlier goes in ``restart-<n>`` folders; these count as well.
    """
    starts = ((_start_unix_s(record), record.parent) for record in folder.glob("runs/*/attempt-*/**/rank-0000.jsonl"))
    return [path for start, path in sorted((start, path) for start, path in starts if start is not None)]


def _start_unix_s(record: Path) -> float | None:
    try:
        with open(record, "rb") as stream:
            return float(jsontext.loads(stream.readline())["clock_origin_unix_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing was measured
