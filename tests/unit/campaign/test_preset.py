from __future__ import annotations

from pathlib import Path

import pytest
from paceline.bench import campaign as campaigns
from paceline.bench import presetcheck
from paceline.bench.cluster import Cluster, load_cluster
from paceline.bench.errors import LaunchError, StudyError
from paceline.bench.preset import Alerts, Preset, load_preset, override, shipped, to_yaml
from paceline.bench.presetcheck import Checked

LEAST = "schema: paceline.preset/1\nname: mine\ntask: Isaac-Cartpole-Direct\nnum_envs: 64\niterations: 10\n"


def preset(tmp_path: Path, text: str = "", **settings: str) -> Preset:
    path = tmp_path / "preset.yaml"
    path.write_text(LEAST + text)
    return load_preset(path, settings)


def checked(**changes: object) -> Checked:
    agent = {"horizon": 16, "num_minibatches": 4, "num_epochs": 5}
    values = {"settings": {}, "agent": agent, "hidden_layers": {}, "defaults": {}, "verified": True}
    return Checked(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def local() -> Cluster:
    return load_cluster("local")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_presets_are_valid_and_come_back(name: str, tmp_path: Path) -> None:
    loaded = load_preset(name)
    assert loaded.name == name
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(loaded))
    assert load_preset(copy) == loaded


def test_the_published_plans() -> None:
    """The values that make them what they are, as the plans state them."""
    anymal = load_preset("anymal_c_rough_48h")
    assert (anymal.num_envs, anymal.iterations, anymal.hours, anymal.save_interval) == (8192, 17000, 48, 500)
    settings = anymal.settings()
    assert settings["agent.actor.hidden_dims"] == settings["agent.critic.hidden_dims"] == [1024, 512, 256]
    assert settings["env.rewards.dof_pos_limits.weight"] == -5.0
    assert settings["agent.algorithm.desired_kl"] == 0.008
    spot = load_preset("spot_rough_48h")
    assert (spot.num_envs, spot.iterations, spot.hours, spot.save_interval) == (8192, 30000, 48, 500)
    assert spot.settings()["env.rewards.base_linear_velocity.weight"] == 7.0
    assert spot.settings()["env.events.push_robot.interval_range_s"] == [10, 15]
    assert spot.alerts.flat_reward_iterations == 5000 and spot.alerts.short_episode_s == 5
    assert spot.expected_fps and spot.alerts.min_fps_share
    assert spot.expected_fps * spot.alerts.min_fps_share == pytest.approx(20_000, rel=0.02)


def test_settings_have_dotted_names(tmp_path: Path) -> None:
    text = "rewards: {alive: 2, pole_pos: null, other: {params: {std: 0.5}}}\nevents: {push: null}\n"
    text += "env: {sim: {dt: 0.01}}\nagent: {algorithm: {gamma: 0.9}}\n"
    assert preset(tmp_path, text).settings() == {
        "agent.algorithm.gamma": 0.9,
        "env.sim.dt": 0.01,
        "env.rewards.alive.weight": 2,
        "env.rewards.pole_pos": None,
        "env.rewards.other.params.std": 0.5,
        "env.events.push": None,
    }
    assert preset(tmp_path).settings() == {}


def test_set_reaches_inside(tmp_path: Path) -> None:
    found = preset(
        tmp_path, **{"rewards.alive": "3", "keep.last": "7", "agent.algorithm.gamma": "0.8", "task": "Isaac-Ant"}
    )
    assert found.settings() == {"agent.algorithm.gamma": 0.8, "env.rewards.alive.weight": 3}
    assert found.keep.last == 7 and found.task == "Isaac-Ant"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "k=0.5"),
        (-5, "k=-5"),
        (1e-6, "k=1e-06"),
        (True, "k=true"),
        (None, "k=null"),
        ([1, 2.5], "k=[1,2.5]"),
        ("elu", "k='elu'"),
        ("a'b\\c", "k='a\\'b\\\\c'"),
    ],
)
def test_overrides_are_written_for_hydra(value: object, text: str) -> None:
    assert override("k", value) == text


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("num_env: 3\n", {}, "unknown key 'num_env'; did you mean 'num_envs'?"),
        ("keep: {lst: 3}\n", {}, "unknown key 'keep.lst'; did you mean 'last'?"),
        ("alerts: {max_gpu_temperature: 3}\n", {}, "did you mean 'max_gpu_temperature_c'?"),
        ("alerts: {short_episode_s: 3}\n", {}, "needs alerts.step_s"),
        ("world_size: 3\n", {}, "num_envs 64 does not divide by world_size 3"),
        ("trainer: skrl\n", {}, "'rsl_rl' or 'rl_games'"),
        ("trainer: rl_games\nwandb: {project: p}\n", {}, "wandb.entity is missing"),
        ("rewards: {'a b': 3}\n", {}, "is not a setting's name"),
        ("", {"iterations": "0"}, "--set iterations: iterations: must be at least 1"),
        ("", {"iterations": ""}, "the value is empty"),
        ("", {"name.x": "3"}, "name is a value, not a group"),
        ("", {"iterations": "null"}, "says no end"),
        ("environment: {LD_PRELOAD: x}\n", {"save_interval": "1.5"}, "save_interval"),
    ],
)
def test_bad_presets(tmp_path: Path, text: str, settings: dict[str, str], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        preset(tmp_path, text, **settings)
    assert said in str(caught.value)


def test_no_such_preset() -> None:
    with pytest.raises(StudyError, match="did you mean 'cartpole_2min'"):
        load_preset("cartpole_2mn")


def test_frames_become_iterations(tmp_path: Path, local: Cluster) -> None:
    case = campaigns.make_case(preset(tmp_path, "frames: 5000\ndevice: cpu\n", iterations="100"), checked(), local)
    assert case.iterations == 5 and case.global_batch == 1024
    assert (case.kind, case.device, case.num_minibatches) == ("training", "cpu", 4)


def test_rl_games_minibatches(tmp_path: Path, local: Cluster) -> None:
    def minibatches(size: int) -> int:
        found = checked(agent={"horizon": 16, "minibatch_size": size, "num_epochs": 4})
        return campaigns.make_case(preset(tmp_path, "device: cpu\n", trainer="rl_games"), found, local).num_minibatches

    assert minibatches(512) == 2 and minibatches(32768) == 1
    with pytest.raises(StudyError, match="does not divide by rl_games' minibatch_size 1000"):
        minibatches(1000)


def test_two_campaigns_in_one_folder(tmp_path: Path, local: Cluster) -> None:
    folder = tmp_path / "campaign"
    first = preset(tmp_path, "device: cpu\n")
    opened = campaigns.create(folder, first, checked(), local)
    again = campaigns.open_campaign(folder)
    assert (again.case, again.campaign, again.preset) == (opened.case, opened.campaign, opened.preset)
    written = opened.folder.campaign_json.stat().st_mtime_ns
    campaigns.create(folder, first, checked(), local)
    assert opened.folder.campaign_json.stat().st_mtime_ns == written  # what completed stays completed
    longer = campaigns.create(folder, preset(tmp_path, "device: cpu\n", iterations="20", hours="2"), checked(), local)
    assert longer.case.iterations == 20 and longer.campaign.hours == 2
    with pytest.raises(LaunchError, match=r"holds another campaign \(num_envs is 64 there and 128 here\)"):
        campaigns.create(folder, preset(tmp_path, "device: cpu\n", num_envs="128"), checked(), local)
    with pytest.raises(LaunchError, match="another campaign"):
        campaigns.create(folder, preset(tmp_path, "device: cpu\nrewards: {alive: 3}\n"), checked(), local)


def test_folders_of_something_else(tmp_path: Path, local: Cluster) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("")
    with pytest.raises(LaunchError, match="holds a study"):
        campaigns.create(tmp_path / "study", preset(tmp_path, "device: cpu\n"), checked(), local)
    with pytest.raises(LaunchError, match="not empty"):
        campaigns.create(tmp_path, preset(tmp_path, "device: cpu\n"), checked(), local)
    with pytest.raises(LaunchError, match="not a campaign folder"):
        campaigns.open_campaign(tmp_path)


def test_a_time_limit_within_the_warning(tmp_path: Path) -> None:
    site = Cluster(name="site", scheduler="slurm", gpus_per_node=0, signal_s=120)
    with pytest.raises(StudyError, match="time_limit_min 2: cluster profile 'site' tells jobs to stop signal_s 120 s"):
        campaigns.make_case(preset(tmp_path, "time_limit_min: 2\n"), checked(), site)


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    site = Cluster(name="site", scheduler="slurm", gpus_per_node=1)
    with pytest.raises(StudyError, match="asks for 2 GPUs on a node, a node of 'site' has 1"):
        campaigns.make_case(preset(tmp_path, "world_size: 2\n"), checked(), site)


def test_the_documentation_shows_a_valid_preset(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    shown = tmp_path / "shown.yaml"
    shown.write_text(blocks[0])
    assert load_preset(shown).settings()["env.rewards.lin_vel_z_l2"] is None
    shown.write_text(LEAST + blocks[1])  # Weights & Biases, Prometheus
    assert load_preset(shown).metrics_port == 9400
    keys = {key for key in Alerts.model_fields if key not in ("step_s", "after_iterations", "short_episode_steps")}
    assert all(f"`{key}`" in page for key in keys)


def test_a_preset_says_which_packages_it_needs_and_what_installs_them(tmp_path: Path) -> None:
    wanted = preset(tmp_path, "wandb: {project: p, mode: offline}\nmetrics_port: 9400\n")
    assert presetcheck.packages(wanted) == ["wandb", "prometheus_client"]
    assert presetcheck.packages(preset(tmp_path)) == []
    presetcheck.require_packages(wanted, checked(), "/opt/jobs/python")
    for name, key in (("wandb", "wandb"), ("prometheus_client", "metrics_port")):
        with pytest.raises(StudyError) as caught:
            presetcheck.require_packages(wanted, checked(missing=(name,)), "/opt/jobs/python")
        said = f"{key}: needs {name}, which the jobs' Python does not have; install it with `uv pip install --python"
        assert said in str(caught.value) and "\n" not in str(caught.value)
