"""What docs/studies.md and docs/clusters.md show and list is what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paceline.bench import yamlfile
from paceline.bench.cluster import Cluster, parse_cluster
from paceline.bench.errors import ClusterError, StudyError
from paceline.bench.resolve import DEFAULTS, resolve
from paceline.bench.study import Study, parse_study

DOCS = Path(__file__).resolve().parents[2] / "docs"
SITE = Cluster(name="site", scheduler="slurm", gpus_per_node=8)


def blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("text", blocks("studies.md"))
def test_studies_shown_are_valid(text: str) -> None:
    assert resolve(parse_study(yamlfile.parse(text, "docs", StudyError), {}), SITE).is_resolved


@pytest.mark.parametrize("text", blocks("clusters.md"))
def test_profiles_shown_are_valid(text: str) -> None:
    assert parse_cluster(yamlfile.parse(text, "docs", ClusterError)).scheduler == "slurm"


@pytest.mark.parametrize(("page", "model"), [("studies.md", Study), ("clusters.md", Cluster)])
def test_every_key_has_its_row(page: str, model: type[Study] | type[Cluster]) -> None:
    table = (DOCS / page).read_text().partition("\n## Keys\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines() if "|" in row)))
    assert listed == {field.alias or name for name, field in model.model_fields.items()}


def test_defaults_listed_are_those_of_the_program() -> None:
    table = (DOCS / "studies.md").read_text().partition("\n## Keys\n")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", table, re.M))
    for key, value in DEFAULTS.items():
        assert rows[key] == (str(value) if value not in ((), {}) else "none")
