"""Which GPUs a site has, from what sinfo prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError, StudyError
from paceline.bench.gpus import cases, groups, parse
from paceline.bench.plan import make_plan
from paceline.bench.render import directives, render_job
from paceline.bench.rundir import StudyDir
from paceline.bench.study import GpuGroup, Study, parse_study, resolve, to_yaml
from paceline.bench.yamlfile import parse as parse_yaml

SITE = Cluster(name="site", scheduler="slurm", gpus_per_node=8)
# node|partition|GRES|features|state, one line for each partition of a node
SINFO = """\
h1|batch*|gpu:h100:8(S:0-1)|h100,sapphire|idle
h1|long|gpu:h100:8(S:0-1)|h100,sapphire|idle
h2|batch*|gpu:h100:4|h100,genoa|mixed
l1|short|gpu:l40s:4(IDX:0-3),nvme:1|l40s|allocated
l2|short|gpu:l40s:4|l40s|down*
c1|batch*|(null)|(null)|idle
m1|batch*|gpu:a100:2,gpu:a30:2|mixed|idle
"""


def test_types_nodes_and_partitions() -> None:
    nodes = parse(SINFO)
    assert Counter(node.gpu_type for node in nodes) == {"h100": 2, "l40s": 1, "a100": 1, "a30": 1}
    h1 = next(node for node in nodes if node.node == "h1")
    assert (h1.gpus, h1.partitions, h1.features) == (8, ("batch", "long"), ("h100", "sapphire"))


def test_every_type_is_a_side_by_default() -> None:
    found = {group.name: group for group in groups(parse(SINFO), SITE)}
    assert set(found) == {"h100", "l40s", "a100", "a30"}
    assert found["h100"].gpus_per_node == 4, "what all its nodes have"
    assert found["l40s"].partition == "short", "the default partition does not have it"
    assert found["h100"].partition is None
    assert all(group.partition is None for group in groups(parse(SINFO), SITE.model_copy(update={"partition": "all"})))


def test_sides_by_feature_by_node_and_per_node() -> None:
    nodes = parse(SINFO)
    assert [g.constraint for g in groups(nodes, SITE, constraints=["sapphire", "genoa"])] == ["sapphire", "genoa"]
    assert [g.nodelist for g in groups(nodes, SITE, node_lists=["h1", "h2"])] == ["h1", "h2"]
    assert [(g.name, g.nodelist) for g in groups(nodes, SITE, ["h100"], per_node=True)] == [("h1", "h1"), ("h2", "h2")]
    narrow = SITE.model_copy(update={"constraint": "ib|roce"})
    assert groups(nodes, narrow, constraints=["genoa"])[0].constraint == "(ib|roce)&genoa"


def test_untyped_gpus_are_told_apart_by_features() -> None:
    text = "n1|b|gpu:4|ib,a100,epyc|idle\nn2|b|gpu:4|ib,RTX6000|idle\n"
    assert [(g.name, g.constraint) for g in groups(parse(text), SITE)] == [("a100", "a100"), ("RTX6000", "RTX6000")]
    assert [g.name for g in groups(parse("n1|b|gpu:4|ib|idle\n"), SITE)] == ["gpu"]


def test_what_does_not_exist_is_named_with_what_does() -> None:
    with pytest.raises(ClusterError, match=r"type 'h200' \(types: a100, a30, h100, l40s; features: .*; nodes: h1, h2"):
        groups(parse(SINFO), SITE, ["h200"])
    with pytest.raises(ClusterError, match="feature 'zen5'"):
        groups(parse(SINFO), SITE, constraints=["zen5"])
    with pytest.raises(ClusterError, match="is called x9"):
        groups(parse(SINFO), SITE, node_lists=["x9"])


def comparison(**changes: object) -> Study:
    sides = groups(parse(SINFO), SITE, ["h100", "l40s"])
    values = {"name": "c", "kind": "gpus", "task": "Isaac-Ant-Direct", "world_sizes": (1, 2), "num_envs_per_rank": 4096}
    return resolve(Study.model_validate({**values, "repeats": 3, "groups": sides, **changes}), SITE)


def test_repeats_are_interleaved_and_each_type_is_warmed() -> None:
    planned = cases(comparison(), SITE)
    assert [(case.kind, case.gpu_type) for case in planned[:2]] == [("warmup", "h100"), ("warmup", "l40s")]
    order = [(case.repeat, case.gpu_type, case.world_size) for case in planned[2:]]
    assert order[:4] == [(0, "h100", 1), (0, "h100", 2), (0, "l40s", 1), (0, "l40s", 2)]
    assert order[4:8] == [(1, "h100", 2), (1, "l40s", 1), (1, "l40s", 2), (1, "h100", 1)]
    assert len({case.case_id for case in planned}) == len(planned) == 14


def test_jobs_ask_for_their_side(tmp_path: Path) -> None:
    study = comparison()
    l40s = next(case for case in cases(study, SITE) if case.gpu_type == "l40s")
    script = render_job(l40s, SITE, StudyDir(tmp_path), 1, "python3", None)
    assert "#SBATCH --partition=short" in script and "#SBATCH --gpus-per-node=l40s:1" in script
    assert "--partition" not in " ".join(directives(l40s, SITE, 10)), "the profile alone names none"


def test_a_study_with_groups_survives_its_file() -> None:
    study = comparison()
    assert parse_study(parse_yaml(to_yaml(study), "x", StudyError), {}) == study
    assert make_plan(study, SITE).gpu_hours > 0


def test_groups_belong_to_comparisons() -> None:
    with pytest.raises(ValueError, match="groups: has a meaning for kind: gpus only"):
        Study(name="x", kind="weak", groups=(GpuGroup(name="a"),))
    with pytest.raises(ClusterError, match="groups is missing"):
        cases(comparison(groups=None), SITE)
