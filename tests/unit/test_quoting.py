"""No text from a study file or a cluster profile reaches a shell unquoted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paceline.bench.cluster import Cluster
from paceline.bench.errors import PacelineError
from paceline.bench.plan import make_plan
from paceline.bench.rundir import StudyDir
from paceline.bench.study import Study, resolve
from pydantic import ValidationError

from tests.job_scene import RUNTIME, scene

nasty = st.lists(
    st.sampled_from(
        ["$(touch {canary})", "`touch {canary}`", "';touch {canary};'", '";touch {canary};"', "\ntouch {canary}\n",
         "$HOME", "'", '"', "\\", "\n", "\r", " ", "#", "&", "|", ";", "(", ")", "<", ">", "*", "~", "!", "{{", "}}",
         "{{% raw %}}", "${{IFS}}", "a", "é", "-", "--", "=", "\t", "\x1b", "%s", "\\n", "$'\\x27'", "EOF"]
    ),
    min_size=1,
    max_size=4,
).map("".join)  # fmt: skip


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_text_from_files_is_never_run_by_the_shell(data: st.DataObject) -> None:
    with scene() as here:
        canary = here.folder / "canary"

        def text() -> str:
            return data.draw(nasty).format(canary=canary)

        def accepted(model: type[Any], fixed: dict[str, Any], free: dict[str, Any]) -> Any:
            """Return the model with those of the free values that it accepts one by one."""
            for key, value in free.items():
                try:
                    model.model_validate(fixed | {key: value})
                except ValidationError:
                    continue
                fixed = fixed | {key: value}
            return model.model_validate(fixed)

        study = accepted(
            Study,
            {"name": "s", "kind": "strong", "task": "Own", "num_envs": 64, "world_sizes": (1,), "horizon": 16,
             "num_minibatches": 4, "num_epochs": 1, "iterations": 4},
            {"name": text(), "task": text(), "physics": text(), "overrides": [text(), text()],
             "environment": {"FROM_STUDY": text(), "ALSO": text()}},
        )  # fmt: skip
        scheduler = data.draw(st.sampled_from(["local", "slurm"]))
        kind = data.draw(st.sampled_from(["none", "apptainer", "docker"]))
        runtime = {"kind": kind, "image": text(), "options": [text()]} if kind != "none" else {}
        cluster = accepted(
            Cluster,
            {"name": "c", "scheduler": scheduler, "gpus_per_node": 0},
            {name: text() for name in ("partition", "account", "qos", "constraint", "gpu_type", "nodelist", "exclude")}
            | {name: text() for name in ("reservation", "mail_user", "name", "results")}
            | {"cache_dir": f"{here.folder}/{text()}", "extra_sbatch": [f"--comment={text()}"], "modules": [text()]}
            | {"environment": {"FROM_CLUSTER": text()}, "runtime": runtime},
        )
        [planned] = make_plan(resolve(study, cluster, 0).model_copy(update={"repeats": 1}), cluster).cases
        folder_name = f"{text()} study".replace("/", "_").replace(":", "_")
        here.study = StudyDir(here.folder / folder_name)
        asset_root = f"/assets/{text()}"
        try:
            run = here.write(planned, cluster, asset_root)
        except PacelineError:
            return  # refused with a message
        for program in ("apptainer", "docker"):
            here.put(program, RUNTIME.format(python=sys.executable, log=str(here.log), command=str(here.python)))
        here.put("module", "#!/bin/sh\nexit 0\n")
        here.put("timeout", '#!/bin/sh\nshift\nexec "$@"\n')
        checked = subprocess.run(["bash", "-n", str(run.job_sh)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        done = here.bash(run)
        assert not canary.exists(), run.job_sh.read_text()
        assert not list(here.folder.rglob("canary")), run.job_sh.read_text()
        assert done.returncode == 0, done.stdout + done.stderr + run.job_sh.read_text()
        training = next((argv, seen) for argv, seen in here.calls() if argv[:2] == ["-m", "paceline.bench.supervise"])
        wanted = {**cluster.environment, **dict(planned.environment), "ISAACSIM_ASSET_ROOT": asset_root}
        assert {name: training[1].get(name) for name in wanted} == wanted
        if cluster.runtime.kind != "none":
            prefix = next(argv for argv, _ in here.calls() if argv[0].endswith(cluster.runtime.kind))
            assert cluster.runtime.image in prefix
            assert set(cluster.runtime.options) <= set(prefix)
            if cluster.runtime.kind == "docker":
                passed = {prefix[i + 1] for i, word in enumerate(prefix) if word == "--env"}
                assert passed >= {*wanted, "PACELINE_RUN_DIR", "PYTHONPATH", "OMP_NUM_THREADS", "HOME"}
        # The header ends where it should: what follows the #SBATCH lines is our comment.
        header = [line for line in run.job_sh.read_text().splitlines() if line.startswith("#SBATCH")]
        assert bool(header) == (scheduler == "slurm")
        assert all("touch" not in line or "--comment=" in line for line in header)
