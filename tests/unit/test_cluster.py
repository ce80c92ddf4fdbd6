from __future__ import annotations

from pathlib import Path

import pytest
from paceline.bench import yamlfile
from paceline.bench.cluster import Cluster, find, load_cluster, parse_cluster, shipped, to_yaml
from paceline.bench.errors import ClusterError

SLURM = "name: s\nscheduler: slurm\ngpus_per_node: 4\n"
LOCAL = "name: s\nscheduler: local\n"


def parse(text: str) -> Cluster:
    return parse_cluster(yamlfile.parse(text, "my.yaml", ClusterError))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SLURM + "partitoin: x", "my.yaml:4: unknown key 'partitoin'; did you mean 'partition'? (valid keys: schema, "),
        (SLURM + "runtime: {knid: none}", "my.yaml:4: unknown key 'runtime.knid'; did you mean 'kind'?"),
        (SLURM + "prices: {gpu_hours: {}}", "my.yaml:4: unknown key 'prices.gpu_hours'; did you mean 'gpu_hour'?"),
        (SLURM + "partition: a b", "my.yaml:4: partition: 'a b' has characters that an #SBATCH line cannot take"),
        (SLURM + "qos: 'a\"b'", "my.yaml:4: qos: 'a\"b' has characters"),
        (SLURM + "account: $HOME", "my.yaml:4: account: '$HOME' has characters"),
        (SLURM + 'constraint: "a\\nb"', "my.yaml:4: constraint: 'a\\nb' has characters"),
        (SLURM + "gpu_type: a;b", "my.yaml:4: gpu_type: 'a;b' has characters"),
        (SLURM + "partition: ''", "my.yaml:4: partition: '' has characters"),
        (SLURM + "extra_sbatch: [-x]", "my.yaml:4: extra_sbatch: '-x' must begin with --"),
        (SLURM + 'extra_sbatch: ["--comment=a\\nrm x"]', "my.yaml:4: extra_sbatch.0: must not contain line breaks"),
        (SLURM + "extra_sbatch: [--output=x]", "my.yaml:4: extra_sbatch: '--output=x': Paceline sets this flag itself"),
        (SLURM + "exclusive: yes", "my.yaml:4: exclusive: expected true or false, found 'yes'"),
        (SLURM + "time_limit_min: 1:30:00", "my.yaml:4: time_limit_min: expected a whole number, found '1:30:00'"),
        (SLURM + "mail_type: [DONE]", "my.yaml:4: mail_type.0: must be 'NONE', 'BEGIN', 'END'"),
        (SLURM + "gpu_request: gpus", "my.yaml:4: gpu_request: must be 'gpus-per-node' or 'gres', not 'gpus'"),
        (SLURM + "scheduler: pbs", "my.yaml:4: key 'scheduler' is stated twice (first in line 2)"),
        ("name: s\nscheduler: pbs", "my.yaml:2: scheduler: must be 'local' or 'slurm', not 'pbs'"),
        ("name: s\nscheduler: slurm", "my.yaml: gpus_per_node is missing; state the GPUs of one node"),
        (SLURM + "mem_gb: 8\nmem_per_gpu_gb: 8", "my.yaml: mem_gb and mem_per_gpu_gb: state only one of them"),
        (SLURM + "signal_s: 3600", "my.yaml: signal_s 3600 must be shorter than the time limit of 60 min"),
        (LOCAL + "partition: x", "my.yaml: partition: has a meaning for scheduler: slurm only"),
        (LOCAL + "exclusive: true", "my.yaml: exclusive: has a meaning for scheduler: slurm only"),
        (LOCAL + "runtime: {kind: docker}", "my.yaml:3: runtime: image is missing; kind docker needs one"),
        (LOCAL + "runtime: {image: x}", "my.yaml:3: runtime: image, binds and options need a kind other than none"),
        (
            LOCAL + "runtime: {kind: podman}",
            "my.yaml:3: runtime.kind: must be 'none', 'apptainer', 'docker' or 'pyxis'",
        ),
        (LOCAL + "runtime: {kind: docker, image: --privileged}", "my.yaml:3: runtime: image must not begin with a hyp"),
        (LOCAL + "runtime: {kind: docker, image: x, binds: [a]}", "my.yaml:3: runtime.binds.0: 'a': write /source, "),
        (LOCAL + "runtime: {kind: docker, image: x, binds: ['/a:/b:z']}", "my.yaml:3: runtime.binds.0: '/a:/b:z': the"),
        (LOCAL + "runtime: {kind: docker, image: x, binds: ['/a,/b']}", "my.yaml:3: runtime.binds.0: '/a,/b': write "),
        (LOCAL + "environment: {A-B: x}", "my.yaml:3: environment: 'A-B' is not a name of an environment variable"),
        (LOCAL + "environment: {OMP_NUM_THREADS: '4'}", "my.yaml:3: environment: OMP_NUM_THREADS is set by Paceline"),
        (LOCAL + "schema: paceline.study/1", "my.yaml:3: schema is 'paceline.study/1', this version of Paceline reads"),
        (LOCAL + "prices: {gpu_hour: {l40: -1}}", "my.yaml:3: prices.gpu_hour.l40: must be at least 0.0, not -1"),
        (
            LOCAL + "prices: {gpu_hour: {l40: .nan}}",
            "my.yaml:3: prices.gpu_hour.l40: expected a finite number, found nan",
        ),
        (LOCAL + "setup: [3]", "my.yaml:3: setup.0: expected text, found 3; put it in quotes"),
    ],
)
def test_bad_files_are_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(ClusterError) as caught:
        parse("name: a b\nscheduler: slrum\nmem_gb: 0\nexclusive: 1\n")
    assert [line.split(":")[1] for line in str(caught.value).split("\n")] == ["1", "2", "3", "4"]


def test_values_that_sites_use() -> None:
    cluster = parse(
        SLURM
        + "partition: gpu,gpu-long\nconstraint: '[rack1|rack2]&a100*2'\nnodelist: node[1-4,7],gpu03\n"
        + "mail_user: me@example.org\nprices: {gpu_hour: {4090: 1, h100: 2.5}}\nmail_type: [END, FAIL]\n"
    )
    assert cluster.constraint == "[rack1|rack2]&a100*2"
    assert cluster.prices is not None
    assert cluster.prices.gpu_hour == {"4090": 1.0, "h100": 2.5}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_profiles_load_and_write_back_equal(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == name
    text = to_yaml(cluster)
    assert text.startswith("schema: paceline.cluster/1\n")
    assert parse_cluster(yamlfile.parse(text, "x", ClusterError)) == cluster


def test_no_shipped_profile_accepts_a_licence() -> None:
    assert not any(load_cluster(name).runtime.accept_eula for name in shipped())


def test_a_name_is_looked_for_here_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("local") == shipped()["local"]
    folder = tmp_path / "slurm_templates" / "clusters"
    folder.mkdir(parents=True)
    (folder / "local.yaml").write_text(LOCAL)
    (folder / "mysite.yaml").write_text(LOCAL)
    assert find("local").samefile(folder / "local.yaml")
    assert find("mysite").samefile(folder / "mysite.yaml")
    Path("mysite.yaml").write_text(LOCAL)
    assert find("mysite").samefile(tmp_path / "mysite.yaml")
    assert find(tmp_path / "mysite.yaml") == tmp_path / "mysite.yaml"


def test_unknown_cluster_names_the_nearest_and_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("not: a profile\n")  # a YAML file that happens to be here is not offered
    with pytest.raises(ClusterError) as caught:
        load_cluster("slurm-plain")
    assert str(caught.value) == (
        "cluster 'slurm-plain': no such profile; did you mean 'slurm_plain'? "
        "(profiles: local, slurm_plain, slurm_typed_gres)"
    )
