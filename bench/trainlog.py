"""Writes training.jsonl: what the trainer says about each iteration, and what became of checkpoints. Scope: rank 0."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.bench.campaignfile import TRAINING_SCHEMA


class TrainLog:
    """The open log of one start. Every line goes to the operating system as it is made."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._stream = open(Path(path), "a", encoding="utf-8")  # noqa: SIM115 (open until `close`)

    def header(self, facts: Mapping[str, Any]) -> None:
        """Write the first line."""
        self._line({"type": "header", "schema": TRAINING_SCHEMA, **facts})

    def iteration(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Write one iteration; numbers that are not finite become null and are named under ``not_finite``."""
        clean, bad = _finite(values, "")
        self._line(
            {"iteration": iteration, "t_unix_s": round(time.time(), 3), **clean, **({"not_finite": bad} if bad else {})}
        )

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Write something that happened: ``checkpoint``, ``checkpoint_failed``, ``removed``, ``stop``."""
        self._line({"event": name, "t_unix_s": round(time.time(), 3), **values})

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._stream.close()

    def _line(self, value: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")
        with contextlib.suppress(OSError):  # a full disk must not end the training; the line goes out with a later one
            self._stream.flush()


def _finite(values: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    clean: dict[str, Any] = {}
    bad: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            clean[name], more = _finite(value, f"{prefix}{name}.")
            bad += more
        elif isinstance(value, float) and not math.isfinite(value):
            clean[name] = None
            bad.append(prefix + name)
        else:
            clean[name] = float(f"{value:.7g}") if isinstance(value, float) else value
    return clean, bad
