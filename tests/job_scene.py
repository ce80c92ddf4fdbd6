"""A study folder with the job script of one case, and programs that record how the script calls them.

The recorders stand in for the other side of the quoting only; tests/integration runs scripts with the real programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench.cluster import Cluster
from paceline.bench.record import Case
from paceline.bench.render import render_job
from paceline.bench.rundir import RunDir, StudyDir

LOCAL = Cluster(name="here", scheduler="local")

# Writes each of its calls as one JSON line. The supervisor waits if told to; the sentinel says completed.
RECORDER = """#!{python}
import json, os, signal, sys, time
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
module = sys.argv[2] if sys.argv[1:2] == ["-m"] else ""
if module == "paceline.bench.supervise":
    def end(number, frame):
        print("got signal", number, flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, end)
    open({log!r} + ".started", "w").close()
    time.sleep(float(os.environ.get("STUB_SLEEP_S", "0")))
    sys.exit(int(os.environ.get("STUB_EXIT", "0")))
if module == "paceline.bench.sentinel" and os.environ.get("STUB_STATUS"):
    with open("result.json", "w") as result:
        result.write('{{\\n "status": "' + os.environ["STUB_STATUS"] + '"\\n}}\\n')
"""

# Records its arguments, then runs what follows the words that only the real program would understand: Python, or the
# shell that is asked what the image is like.
RUNTIME = """#!{python}
import json, os, sys
if sys.argv[1:3] == ["image", "inspect"]:
    sys.exit(0)
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv, {{}}]) + "\\n")
start = next(i for i, word in enumerate(sys.argv) if word in ({command!r}, "sh"))
os.execvp(sys.argv[start], sys.argv[start:])
"""


@dataclass
class Scene:
    """A study folder, a recorder in the place of Python, and the script of one case."""

    folder: Path
    study: StudyDir

    @property
    def python(self) -> Path:
        return self.folder / "bin dir" / "python"

    @property
    def log(self) -> Path:
        return self.folder / "calls.jsonl"

    def put(self, name: str, text: str) -> Path:
        path = self.folder / "bin dir" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def write(self, case: Case, cluster: Cluster = LOCAL, asset_root: str | None = None) -> RunDir:
        self.put("python", RECORDER.format(python=sys.executable, log=str(self.log)))
        run = self.study.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        (self.study.code / "paceline").mkdir(parents=True)
        run.job_sh.write_text(render_job(case, cluster, self.study, 1, str(self.python), asset_root))
        return run

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.folder / 'bin dir'}:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.folder), "STUB_STATUS": "completed", **more}

    def bash(self, run: RunDir, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(run.job_sh)],
            env=self.environment(**more),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]

    def arguments(self, module: str) -> list[list[str]]:
        return [argv[2:] for argv, _ in self.calls() if argv[:2] == ["-m", f"paceline.bench.{module}"]]


@contextmanager
def scene(name: str = "study") -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as folder:
        yield Scene(Path(folder), StudyDir(Path(folder) / name))


def case(world_size: int = 2, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "strong",
        "task": "Isaac-Ant-Direct",
        "trainer": "rsl_rl",
        "world_size": world_size,
        "num_envs": 64,
        "horizon": 16,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 4,
        "warmup_iterations": 1,
        "repeat": 0,
        "seed": 42,
        "device": "cpu",
    }
    return Case(**(values | changes))
