from __future__ import annotations

import collections
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import checkpoint as checkpoints
from paceline.bench import retention
from paceline.bench.campaignfile import Campaign, CampaignDir
from paceline.bench.checkpointcontents import ANOTHER_NETWORK, network_mismatch, read_contents
from paceline.bench.errors import RecordError


class _Storage:
    """Stands for a tensor's storage in a pickle, as torch.save writes it."""


def _rebuild_tensor_v2(*args: Any) -> None: ...


class _Tensor:
    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> Any:
        return _rebuild_tensor_v2, (_Storage(), 0, self.shape, (1,) * len(self.shape), False, collections.OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", "FloatStorage", "0", "cpu", 1) if isinstance(obj, _Storage) else None


def write(path: Path, data: Any, payload: bytes = b"\0" * 4000) -> Path:
    """Write a file as torch.save lays it out."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", stream.getvalue())
        archive.writestr(f"{path.stem}/data/0", payload)
    return path


def rsl_rl(folder: Path, iteration: int, widths: tuple[int, ...] = (32, 16)) -> Path:
    sizes = [4, *widths, 1]
    layers = {f"mlp.{2 * n}.weight": _Tensor(sizes[n + 1], sizes[n]) for n in range(len(sizes) - 1)}
    return write(
        folder / f"model_{iteration}.pt",
        {"actor_state_dict": layers, "critic_state_dict": layers, "iter": iteration, "infos": None},
    )


def rl_games(folder: Path, epoch: int) -> Path:
    data = {"model": {"a2c_network.actor_mlp.0.weight": _Tensor(32, 4)}, "epoch": epoch, "frame": 1024 * epoch}
    return write(folder / f"last_cartpole_ep_{epoch}_rew_3.25.pth", data)


def noted(path: Path, number: int, reward: float | None = None) -> Path:
    checkpoints.write_index(path, {"next_iteration": number, "numbered": True, "reward": reward})
    return path


def test_contents_of_both_trainers(tmp_path: Path) -> None:
    first, second = read_contents(rsl_rl(tmp_path, 100)), read_contents(rl_games(tmp_path, 50))
    assert (first.trainer, first.next_iteration) == ("rsl_rl", 101)
    assert first.layer_widths("actor") == [32, 16, 1]
    assert first.layer_widths("no such network") == []
    assert (second.trainer, second.next_iteration) == ("rl_games", 50)
    assert second.shapes == {"model.a2c_network.actor_mlp.0.weight": (32, 4)}


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = write(tmp_path / "model_3.pt", {"iter": 3, "actor_state_dict": {}, "infos": Evil()})
    assert read_contents(path).next_iteration == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 2000, -1])
def test_truncated_files_are_never_taken(tmp_path: Path, keep: int) -> None:
    whole, cut = rsl_rl(tmp_path, 10), rsl_rl(tmp_path, 20)
    cut.write_bytes(cut.read_bytes()[:keep])
    found, passed = checkpoints.newest_complete(tmp_path)
    assert found is not None and found.path == whole
    assert [path for path, _ in passed] == [cut]


def test_damage_inside_is_found_with_and_without_a_note(tmp_path: Path) -> None:
    for name in (10, 20):
        path = rsl_rl(tmp_path, name)
        if name == 20:
            noted(path, 21)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        assert "damaged" in str(checkpoints.why_incomplete(path))
    assert checkpoints.newest_complete(tmp_path)[0] is None


def test_find_orders_by_iteration_and_knows_only_checkpoints(tmp_path: Path) -> None:
    for number in (0, 100, 50):
        rsl_rl(tmp_path, number)
    rl_games(tmp_path, 60)
    (tmp_path / "exported").mkdir()
    rsl_rl(tmp_path / "exported", 900)
    (tmp_path / "policy.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "notes.txt").write_text("")
    assert [c.next_iteration for c in checkpoints.find(tmp_path)] == [101, 60, 51, 1]


def test_a_note_is_no_checkpoint_to_isaac_lab(tmp_path: Path) -> None:
    """Isaac Lab looks for names that begin with model_, or contain .pth."""
    for path in (rsl_rl(tmp_path, 7), rl_games(tmp_path, 7)):
        note = checkpoints.index_path(noted(path, 8)).name
        assert not note.startswith("model_") and ".pt" not in note


def test_keep_copies_the_whole_or_nothing(tmp_path: Path) -> None:
    source = noted(rsl_rl(tmp_path, 30), 31, reward=1.5)
    kept = checkpoints.keep(source, tmp_path / "kept")
    assert kept.read_bytes() == source.read_bytes()
    index = checkpoints.read_index(kept)
    assert index is not None and index["next_iteration"] == 31 and index["copy_of"] == source.name
    source.write_bytes(source.read_bytes()[:-10])
    with pytest.raises(RecordError, match="truncated"):
        checkpoints.keep(source, tmp_path / "kept", "other.pt")
    assert sorted(os.listdir(tmp_path / "kept")) == ["model_30.pt", "paceline-model_30.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model_1.pt"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"), checkpoints.replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("disk full")
    assert os.listdir(tmp_path) == ["model_1.pt"] and target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"something": 1}, "not a checkpoint of rsl_rl or rl_games"),
        ([1, 2], "no training state"),
    ],
)
def test_foreign_files(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        read_contents(write(tmp_path / "model_1.pt", data))


def test_missing_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such checkpoint"):
        read_contents(tmp_path / "model_1.pt")
    (tmp_path / "model_2.pt").write_text("hello")
    with pytest.raises(RecordError, match="not a checkpoint of torch"):
        read_contents(tmp_path / "model_2.pt")
    with zipfile.ZipFile(tmp_path / "model_3.pt", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(RecordError, match=r"no data\.pkl"):
        read_contents(tmp_path / "model_3.pt")


def _campaign(tmp_path: Path, **policy: int) -> tuple[CampaignDir, Campaign]:
    folder = CampaignDir(tmp_path)
    folder.trainer.mkdir()
    campaign = Campaign(name="test", iterations=1000, **policy)  # type: ignore[arg-type]
    folder.campaign_json.write_text(json.dumps(campaign.to_json()))
    return folder, folder.read()


def test_retention(tmp_path: Path) -> None:
    folder, campaign = _campaign(tmp_path, keep_last=2, keep_every=200, keep_best=1)
    rewards = {0: 0.0, 100: 9.0, 200: 1.0, 300: 2.0, 400: 3.0, 500: 4.0}
    for number, reward in rewards.items():
        noted(rsl_rl(folder.trainer, number), number + 1, reward)
    foreign = rsl_rl(folder.trainer, 350)  # nobody noted it: it is not ours to delete
    gone = retention.apply(folder, campaign)
    assert [path.name for path in gone] == ["model_300.pt"]
    left = {c.path.name for c in checkpoints.find(folder.trainer)}
    assert left == {"model_0.pt", "model_100.pt", "model_200.pt", "model_400.pt", "model_500.pt", foreign.name}
    assert retention.apply(folder, campaign) == []
    kept = retention.keep_finals(folder, campaign)
    assert sorted(path.name for path in kept) == ["model_100.pt", "model_500.pt"]


def test_everything_stays_with_keep_last_0(tmp_path: Path) -> None:
    folder, campaign = _campaign(tmp_path, keep_last=0)
    for number in range(5):
        noted(rsl_rl(folder.trainer, number), number + 1)
    assert retention.apply(folder, campaign) == []


def test_a_network_that_does_not_fit_is_one_line() -> None:
    """torch's words (tests/integration/test_campaign.py has the real error); other errors are left alone."""
    lines = ["Error(s) in loading state_dict for MLPModel:"]
    for name, now, here in (("weight", "32, 4", "16, 4"), ("bias", "32", "16")):
        lines.append(
            f"\tsize mismatch for 0.{name}: copying a param with shape torch.Size([{now}]) from checkpoint, "
            f"the shape in current model is torch.Size([{here}])."
        )
    said = network_mismatch("/runs/model_9.pt", RuntimeError("\n".join(lines)))
    assert said is not None and "\n" not in said
    assert said.startswith(f"/runs/model_9.pt {ANOTHER_NETWORK}: size mismatch for 0.weight: ")
    assert said.endswith(": [32, 4] in the checkpoint, [16, 4] in the model")
    assert network_mismatch("/runs/model_9.pt", ValueError("something else")) is None
