"""JSON Schemas of study files, cluster profiles and training presets, so that editors complete keys and mark mistakes.

docs/schemas holds them; shipped files name them in a ``# yaml-language-server: $schema=`` line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paceline.bench.cluster import Cluster
from paceline.bench.preset import Preset
from paceline.bench.study import Study
from pydantic import BaseModel

MODELS: dict[str, type[BaseModel]] = {"study.json": Study, "cluster.json": Cluster, "preset.json": Preset}


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a file format."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(by_alias=True)}


def write(folder: Path) -> list[Path]:
    """Write study.json, cluster.json and preset.json into a folder, made if need be, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, model in MODELS.items():
        path = folder / name
        path.write_text(json.dumps(schema(model), indent=1) + "\n", encoding="utf-8")
        paths.append(path)
    return paths
