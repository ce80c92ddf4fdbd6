"""`paceline evaluate`: play checkpoints in tasks, as many at once as fit, and say which is best."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.bench.errors import LaunchError

if TYPE_CHECKING:
    from paceline.bench.evaluation import Cell, Policy
    from paceline.bench.packing import Progress

EXAMPLE = "paceline evaluate outputs/spot_rough_48h-mysite --best 5 --seeds 1,2 --episodes 100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("sources", metavar="CHECKPOINT", nargs="+", help="checkpoint files, or campaign folders")
    parser.add_argument(
        "--best", type=int, default=1, metavar="N", help="of a campaign: its newest and N best (default 1)"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="task to play in (default: the campaign's own); repeat it"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="'NAME: KEY=VALUE ...'",
        help="play each task with these settings, e.g. 'long: env.episode_length_s=40'; repeat it",
    )
    parser.add_argument("--seeds", default="1", metavar="LIST", help="seeds, such as 1,2,3 (default 1)")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each cell (default 100)")
    parser.add_argument(
        "--num-envs", type=int, help="environments of each process (default: as many as episodes, 1024 at most)"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="processes at once on a GPU at most; 1: one by one (default: what fits)",
    )
    parser.add_argument(
        "--one-by-one",
        action="store_true",
        help="then play the same cells once more, one after another, into DIR/one-by-one: the report's speed-up is "
        "measured instead of estimated",
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: a GPU if there is one"
    )
    parser.add_argument("--physics", help="Isaac Lab physics preset (default: the campaign's own, or newton_mjwarp)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="further setting of all cells: env.KEY=VALUE, agent.KEY=VALUE",
    )
    parser.add_argument("--python", help="Python with Isaac Lab (default: the jobs' environment of this checkout)")
    parser.add_argument(
        "--folder",
        metavar="DIR",
        default="outputs/evaluation",
        help="where it is kept; cells that are done there are not played again (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Play what is missing, then report; exit code 0, or 1 if a cell failed."""
    from paceline.bench import evaluation, packing

    if args.episodes < 1 or (args.num_envs is not None and args.num_envs < 1):
        raise LaunchError("--episodes and --num-envs must be at least 1")
    if args.at_once is not None and args.at_once < 1:
        raise LaunchError(f"--at-once {args.at_once}: must be at least 1")
    if args.one_by_one and args.at_once == 1:
        raise LaunchError("--one-by-one measures what packing gains; with --at-once 1 nothing is packed")
    for setting in args.settings:
        if not setting.startswith(("env.", "agent.")) or "=" not in setting:
            raise LaunchError(f"--set {setting}: expected env.KEY=VALUE or agent.KEY=VALUE")
    policies = evaluation.find_policies(args.sources, args.best)
    cells = make_cells(args, policies)
    python, asset_root = _jobs_python(args.python)
    folder = evaluation.EvaluationDir(Path(args.folder))
    asked = {"episodes": args.episodes, "policies": [policy.path for policy in policies]}
    folder.create(cells, asked)
    _say(f"{len(cells)} cells of {args.episodes} episodes: {len(policies)} checkpoints")
    with tempfile.TemporaryDirectory(prefix="paceline-") as link:
        command, environment = [python, "-m", "paceline.bench.evalworker"], _environment(Path(link), asset_root)
        progress = packing.Packer(folder, cells, command, environment, _Shower(), most=args.at_once).run()
        try:
            if args.one_by_one:
                _say("the same cells once more, one by one")
                alone = evaluation.EvaluationDir(folder.path / evaluation.ONE_BY_ONE)
                alone.create(cells, asked)
                packing.Packer(alone, cells, command, environment, _Shower(), most=1, only=1).run()
        finally:  # what was played until an interrupt is a measurement too
            code = finish(folder.path, progress)
            ours = Path(environment["PYTHONPYCACHEPREFIX"], *Path(link).resolve().parts[1:])
            shutil.rmtree(ours, ignore_errors=True)  # the link's name does not come back; bytecode of others does
    return code


def make_cells(args: argparse.Namespace, policies: list[Policy]) -> list[Cell]:
    """Return the matrix: checkpoints x tasks x variants x seeds; LaunchError if a part of it is not valid."""
    from paceline.bench import evaluation, local

    seeds = _seeds(args.seeds)
    variants = [evaluation.variant(text) for text in args.variant] or [("", ())]
    device = args.device
    if device == "auto":
        device = "cuda" if local.visible_gpus() else "cpu"
    device = "cuda:0" if device == "cuda" else "cpu"
    num_envs = args.num_envs or min(args.episodes, 1024)
    own = {policy.sha256: evaluation.settings_of(policy) for policy in policies}
    environments = {policy.campaign: _env_part(own[policy.sha256]) for policy in policies if policy.campaign}
    if len(set(environments.values())) > 1:
        names = ", ".join(Path(name).name for name in environments)
        raise LaunchError(
            f"the campaigns {names} train with different env settings (rewards, events), so their rewards do not "
            "compare; evaluate them one at a time"
        )
    cells = []
    for policy in policies:
        settings = own[policy.sha256]
        tasks = args.task or ([settings[0]] if settings else [])
        if not tasks:
            raise LaunchError(f"{policy.path}: comes from no campaign, so say where to play it with --task")
        physics = args.physics or (settings[1] if settings else "newton_mjwarp")
        for task, (name, overrides), seed in itertools.product(tasks, variants, seeds):
            trained = settings[2] if settings and settings[0] == task else _agent_part(settings)
            cells.append(
                evaluation.Cell(
                    checkpoint=policy.path,
                    label=policy.label,
                    sha256=policy.sha256,
                    trainer=policy.trainer,
                    task=task,
                    variant=name,
                    seed=seed,
                    episodes=args.episodes,
                    num_envs=num_envs,
                    device=device,
                    physics=physics,
                    overrides=(*trained, *args.settings, *overrides),
                )
            )
    return cells


def finish(folder: Path, progress: Progress) -> int:
    """Write the report, print it and, last, its path; return 0 if every cell completed."""
    from paceline.analysis import evaluation_report

    text = evaluation_report.write(folder)
    print(text)
    print(folder / "report.md")
    return 0 if set(progress.states.values()) <= {"completed"} else 1


class _Shower:
    """Shows progress: a line that is rewritten on a terminal, plain lines in a log."""

    def __init__(self) -> None:
        self._notes = 0
        self._states: dict[str, str] = {}
        self._live = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        for note in progress.notes[self._notes :]:
            self._line(note)
        self._notes = len(progress.notes)
        for cell in progress.cells:
            state = progress.states[cell.cell_id]
            if state != self._states.get(cell.cell_id, "waiting"):
                self._line(
                    f"{cell.name}: {state}"
                    + (f", {progress.episodes[cell.cell_id]} episodes" if state != "running" else "")
                )
            self._states[cell.cell_id] = state
        if self._live:
            states = list(progress.states.values())
            parts = [
                f"{states.count(state)} {state}"
                for state in ("completed", "running", "waiting", "failed")
                if state in states
            ]
            under_way = [
                f"{progress.episodes[cell.cell_id]}/{cell.episodes}"
                for cell in progress.cells
                if progress.states[cell.cell_id] == "running"
            ]
            print(f"\r\x1b[K{', '.join(parts)}  {' '.join(under_way)}"[:160], end="", file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        print(("\r\x1b[K" if self._live else "") + text, file=sys.stderr, flush=True)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise LaunchError(f"--seeds {text}: expected whole numbers such as 1,2,3") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise LaunchError(f"--seeds {text}: seeds must differ and not be negative")
    return seeds


def _env_part(settings: tuple[str, str, tuple[str, ...]] | None) -> tuple[str, ...]:
    return tuple(o for o in settings[2] if o.startswith("env.")) if settings else ()


def _agent_part(settings: tuple[str, str, tuple[str, ...]] | None) -> tuple[str, ...]:
    """Return the settings that fit any task: the agent's, since the network must be the checkpoint's."""
    return tuple(o for o in settings[2] if o.startswith("agent.")) if settings else ()


def _jobs_python(stated: str | None) -> tuple[str, str | None]:
    """Return the Python with Isaac Lab and the asset root; LaunchError if there is none."""
    if stated is not None:
        python = shutil.which(stated)
        if python is None:
            raise LaunchError(f"--python {stated}: no such program")
        return python, os.environ.get("ISAACSIM_ASSET_ROOT")
    from paceline.bench import environment

    made = environment.ensure(_say)
    root = environment.ensure_assets(made.python, _say)
    return str(made.python), str(root) if root else None


def _environment(link: Path, asset_root: str | None) -> dict[str, str]:
    """Return the environment of the processes; they get our packages, and nothing else of ours, through a link."""
    import paceline.bench
    import paceline.profiling
    from paceline.bench.environment import cache_variables

    package = link / "paceline"
    package.mkdir()
    for module in (paceline.bench, paceline.profiling):
        (package / module.__name__.rpartition(".")[2]).symlink_to(Path(next(iter(module.__path__))).resolve())
    inherited = os.environ.get("PYTHONPATH")
    paths = str(link) if not inherited else f"{link}{os.pathsep}{inherited}"
    own: dict[str, Any] = {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **cache_variables()}
    own["PYTHONSAFEPATH"] = "1"  # the folder that the user happens to be in is no place to import from
    own |= {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    if asset_root:
        own["ISAACSIM_ASSET_ROOT"] = asset_root
    return {name: value for name, value in {**os.environ, **own}.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _say(text: str) -> None:
    print(f"paceline: {text}", file=sys.stderr, flush=True)
