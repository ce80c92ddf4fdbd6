"""Prometheus metrics of a running campaign, served by rank 0 at a port that the preset names. Needs prometheus_client.

docs/training.md shows how to scrape them, and a Grafana dashboard that draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from paceline.bench.record import Case

GAUGES = {
    "iteration": "Iterations done",
    "iterations_goal": "Iterations of the campaign",
    "total_fps": "Environment steps per second of all ranks, from the trainer's own iteration time",
    "reward": "Mean episode reward",
    "episode_length": "Mean episode length in steps",
    "learning_rate": "Learning rate",
    "terrain_level": "Mean level of the terrain curriculum",
    "disk_free_bytes": "Room on the file system of the campaign",
    "loss": "Losses of the last update",
}


class Metrics:
    """The metrics of one campaign, as gauges ``paceline_<name>{campaign, task, trainer}``."""

    def __init__(self, campaign: str, gauges: dict[str, Any]) -> None:
        self._campaign = campaign
        self._gauges = gauges

    @classmethod
    def start(cls, port: int | None, campaign: str) -> Metrics | None:
        """Serve metrics at a port; None where no port is given or prometheus_client is missing (that is said)."""
        if port is None:
            return None
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server

            registry = CollectorRegistry()
            labels = ["campaign", "task", "trainer"]
            gauges = {
                name: Gauge(
                    f"paceline_{name}", text, [*labels, *(["name"] if name == "loss" else [])], registry=registry
                )
                for name, text in GAUGES.items()
            }
            start_http_server(port, registry=registry)
        except ImportError:
            print("paceline: no metrics: prometheus_client is not installed in the jobs' Python", file=sys.stderr)
            return None
        except OSError as error:
            print(f"paceline: no metrics at port {port}: {error.strerror}", file=sys.stderr)
            return None
        return cls(campaign, gauges)

    def show(self, done: int, case: Case, iteration_time_s: float | None, values: Mapping[str, Any]) -> None:
        """Set the gauges after an iteration."""
        labels = (self._campaign, case.task, case.trainer)
        shown: dict[str, float] = {"iteration": done, "iterations_goal": case.iterations}
        if iteration_time_s:
            shown["total_fps"] = case.global_batch / iteration_time_s
        shown |= {name: values[name] for name in GAUGES if values.get(name) is not None}
        for name, value in shown.items():
            self._gauges[name].labels(*labels).set(value)
        for name, value in values.get("losses", {}).items():
            if value is not None:
                self._gauges["loss"].labels(*labels, name).set(value)
