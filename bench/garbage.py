"""Python's garbage collector before and after the work of a process that loads Isaac Lab. A leaf: standard library.

A rank makes millions of objects that stay when it imports torch, Warp and Isaac Lab, and the collector looks through
them again and again; when the process ends, it does so several times more. With CPU ranks that is 6 of the 22 s of a
short run. What is measured lies between the two and has the collector as Python sets it.
"""

from __future__ import annotations

import gc

_STOCK = gc.get_threshold()
_WHILE_STARTING = 50_000
"""New objects between two collections; Python's own default is 700 to 2000."""


def starting() -> None:
    """Collect seldom until `running` is called."""
    gc.set_threshold(_WHILE_STARTING, *_STOCK[1:])


def running() -> None:
    """Collect once, so that nothing left from the start does in a measured iteration, then as Python does by itself."""
    gc.collect()
    gc.set_threshold(*_STOCK)


def ending(device: str) -> None:
    """Let the interpreter end without looking through everything once more, if nothing of it is on a GPU.

    With GPUs it ends as ever: NCCL's and CUDA's own objects may be in cycles, and want to be taken down in order.
    """
    if device == "cpu":
        gc.freeze()
