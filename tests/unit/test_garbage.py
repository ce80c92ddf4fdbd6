"""The collector is Python's own while something is measured, and is left alone before and after."""

from __future__ import annotations

import subprocess
import sys

STATES = """
import gc
own = gc.get_threshold()
from paceline.bench import garbage
garbage.starting()
assert gc.isenabled() and gc.get_threshold()[0] == 50_000, gc.get_threshold()
garbage.running()
assert gc.isenabled() and gc.get_threshold() == own, gc.get_threshold()
garbage.ending("cuda")
assert gc.get_freeze_count() == 0
garbage.ending("cpu")
assert gc.get_freeze_count() > 1000
print("ended")
"""


def test_before_during_and_after() -> None:
    done = subprocess.run([sys.executable, "-c", STATES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
