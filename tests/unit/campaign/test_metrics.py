"""Prometheus metrics: served over HTTP as prometheus_client does, and drawn by the dashboard in docs/."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from paceline.bench.metrics import GAUGES, Metrics

from tests.campaigns import case, good

DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "grafana-campaign.json"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the server lives as long as the training
def test_metrics_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    metrics = Metrics.start(port, "mine")
    assert metrics is not None
    metrics.show(7, case(), 2.0, {**good(6), "learning_rate": None})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    labels = 'campaign="mine",task="Isaac-Velocity-Rough-AnymalD",trainer="rsl_rl"'
    assert f"paceline_iteration{{{labels}}} 7.0" in text
    assert f"paceline_total_fps{{{labels}}} {4096 * 24 / 2.0}" in text
    assert re.search(r'paceline_loss\{campaign="mine",name="value"', text)
    assert "paceline_learning_rate{" not in text  # not known: not there, not 0
    assert Metrics.start(port, "second") is None
    assert f"no metrics at port {port}" in capsys.readouterr().err


def test_no_port_no_metrics() -> None:
    assert Metrics.start(None, "mine") is None


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    drawn = set(re.findall(r"paceline_(\w+?)\{", json.dumps(dashboard["panels"]).replace("\\", "")))
    assert drawn == set(GAUGES)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
