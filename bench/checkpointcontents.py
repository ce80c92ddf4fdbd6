"""What is in a checkpoint of a trainer, read without torch and without running code from it.

A leaf module: standard library only. A checkpoint of torch is a zip file with a pickle in it; the pickle is read into
containers, numbers and shapes of tensors, and everything else that it names is left out.
"""

from __future__ import annotations

import collections
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench.errors import RecordError

_MAX_PICKLE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a checkpoint says about itself."""

    trainer: str
    next_iteration: int
    shapes: dict[str, tuple[int, ...]]
    """Shape of every tensor of the networks, by its name with the part of the checkpoint it lies in."""

    def layer_widths(self, network: str) -> list[int]:
        """Return the output widths of the linear layers of one network (part of a name), in order, the last included.

        Empty if the network has none by that name.
        """
        found = [
            (name, shape)
            for name, shape in self.shapes.items()
            if network in name and name.endswith(".weight") and len(shape) == 2
        ]
        return [shape[0] for _, shape in sorted(found, key=lambda item: [_number(part) for part in item[0].split(".")])]


def read_contents(path: Path) -> Contents:
    """Return what a checkpoint says, without torch and without running code from it.

    Raises:
        RecordError: It is missing, truncated, damaged, or not a checkpoint of a trainer that Paceline knows.
    """
    data = _unpickle(path)
    if not isinstance(data, Mapping):
        raise RecordError(f"{path}: no training state in it (an exported policy?); a checkpoint of a trainer is needed")
    parts: tuple[str, ...]
    if "iter" in data and "actor_state_dict" in data:
        trainer, done, parts = "rsl_rl", int(data["iter"]) + 1, ("actor_state_dict", "critic_state_dict")
    elif "iter" in data and "model_state_dict" in data:  # rsl_rl before 5
        trainer, done, parts = "rsl_rl", int(data["iter"]) + 1, ("model_state_dict",)
    elif "epoch" in data and "model" in data:
        trainer, done, parts = "rl_games", int(data["epoch"]), ("model",)
    else:
        keys = ", ".join(sorted(map(str, data))[:6])
        raise RecordError(f"{path}: not a checkpoint of rsl_rl or rl_games (it holds: {keys})")
    shapes = {
        f"{part}.{name}": tuple(tensor.shape)
        for part in parts
        for name, tensor in dict(data.get(part) or {}).items()
        if isinstance(tensor, _Tensor)
    }
    return Contents(trainer=trainer, next_iteration=done, shapes=shapes)


ANOTHER_NETWORK = "holds another network than the task's settings make"
_MISMATCH = re.compile(
    r"copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)\.?"
)


def network_mismatch(path: str, error: BaseException) -> str | None:
    """Return one line for an error of torch about a checkpoint of another network, None for any other error."""
    text = str(error)
    if "loading state_dict" not in text:
        return None
    detail = next((line.strip() for line in text.splitlines()[1:] if line.strip()), "")
    detail = _MISMATCH.sub(r"\1 in the checkpoint, \2 in the model", detail)  # short: the path may be long
    return f"{path} {ANOTHER_NETWORK}: {detail}"[:400]


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (-1, text)


class _Inert:
    """Stands for whatever a pickle names; does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]


class _Reader(pickle.Unpickler):
    """Reads the structure of a pickle: containers and numbers as they are, tensors as shapes, nothing else is made."""

    def find_class(self, module: str, name: str) -> Any:
        if name.startswith("_rebuild_tensor"):
            return lambda storage, offset, size, *rest: _Tensor(tuple(int(n) for n in size))
        if name == "_rebuild_parameter":
            return lambda data, *rest: data
        return collections.OrderedDict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()


def _unpickle(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise RecordError(f"{path}: not a checkpoint of torch (no data.pkl in it)")
            if archive.getinfo(names[0]).file_size > _MAX_PICKLE_BYTES:
                raise RecordError(f"{path}: its description is larger than any checkpoint's")
            with archive.open(names[0]) as stream:
                return _Reader(stream).load()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such checkpoint") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise RecordError(f"{path}: truncated, or not a checkpoint of torch") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    except RecordError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of itself
        raise RecordError(f"{path}: damaged: its description cannot be read ({type(error).__name__})") from error
