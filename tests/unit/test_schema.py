from __future__ import annotations

import json
from pathlib import Path

import pytest
from paceline.bench import schema
from paceline.bench.cluster import Cluster
from paceline.bench.cluster import shipped as shipped_clusters
from paceline.bench.preset import shipped as shipped_presets
from paceline.bench.study import Study, StudyValues
from paceline.bench.study import shipped as shipped_studies

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "schemas"


def test_committed_schemas_are_current(tmp_path: Path) -> None:
    for path in schema.write(tmp_path / "made"):
        assert path.read_text() == (COMMITTED / path.name).read_text(), "out of date: `make schema` writes them"
    assert {path.name for path in COMMITTED.iterdir()} == set(schema.MODELS)


@pytest.mark.parametrize("name", schema.MODELS)
def test_every_key_is_explained(name: str) -> None:
    found = json.loads((COMMITTED / name).read_text())
    objects = [found, *found.get("$defs", {}).values()]
    silent = [key for part in objects for key, value in part["properties"].items() if "description" not in value]
    assert not silent
    assert all(part["additionalProperties"] is False for part in objects)


def test_keys_in_files_are_those_of_the_models() -> None:
    study = json.loads((COMMITTED / "study.json").read_text())
    assert set(study["properties"]) == {f.alias or n for n, f in Study.model_fields.items()}
    assert set(study["$defs"]["StudyValues"]["properties"]) == set(StudyValues.model_fields)
    assert set(study["required"]) == {"name", "kind"}
    cluster = json.loads((COMMITTED / "cluster.json").read_text())
    assert set(cluster["properties"]) == {f.alias or n for n, f in Cluster.model_fields.items()}
    assert set(cluster["required"]) == {"name", "scheduler"}


@pytest.mark.parametrize(
    "path",
    [*shipped_studies().values(), *shipped_clusters().values(), *shipped_presets().values()],
    ids=lambda p: p.name,
)
def test_shipped_files_name_their_schema(path: Path) -> None:
    first = path.read_text().split("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    named = (path.parent / first.partition("=")[2]).resolve()
    assert named == COMMITTED / f"{path.parent.name.removesuffix('s').replace('studie', 'study')}.json"
