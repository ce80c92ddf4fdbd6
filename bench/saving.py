"""Writes the checkpoints of a campaign without leaving half files, and keeps those that its policy keeps. Scope: rank.

The trainers call torch.save with the path of a checkpoint; in a campaign that goes through `Saver`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paceline.bench import checkpoint as checkpoints
from paceline.bench import retention
from paceline.bench.campaignfile import Campaign, CampaignDir
from paceline.bench.errors import LaunchError, RecordError
from paceline.bench.rankfile import one_line

_LITTLE_BYTES = 64 * 2**20


class Saver:
    """Saves checkpoints of one rank."""

    def __init__(
        self,
        campaign_dir: CampaignDir,
        campaign: Campaign,
        facts: Callable[[Path], dict[str, Any]],
        event: Callable[[str, Mapping[str, Any]], None],
        is_last: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            campaign_dir: The campaign's folder.
            campaign: What is kept.
            facts: What to note about a checkpoint; ``next_iteration`` among it.
            event: Told what became of a checkpoint.
            is_last: Whether what is being saved is the campaign's last checkpoint, which must be written.
        """
        self._campaign_dir, self._campaign = campaign_dir, campaign
        self._facts, self._event, self._is_last = facts, event, is_last

    def whole(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return torch.save made atomic for checkpoints: a reader sees the old file or the whole of the new one."""

        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            if not isinstance(f, str | os.PathLike) or not str(f).endswith(checkpoints.SUFFIXES):
                original(obj, f, *args, **kwargs)
                return
            self.save(Path(f), lambda temporary: original(obj, temporary, *args, **kwargs))

        return save

    def save(self, path: Path, write: Callable[[Path], None]) -> None:
        """Save a checkpoint by a function that writes it, then let go what the policy lets go.

        Raises:
            LaunchError: The campaign's last checkpoint cannot be written. Failing on another is told and passed over:
                a full disk now must not cost what is trained since the last one; the next interval tries again.
        """
        start = time.perf_counter()
        facts = self._facts(path)
        done = facts["next_iteration"]
        try:
            with checkpoints.replacing(path) as temporary:
                write(temporary)
            checkpoints.write_index(path, facts)
        except (OSError, RuntimeError) as error:  # RuntimeError: what torch makes of a full disk
            reason = _reason(error, path)
            if self._is_last():
                raise LaunchError(f"the last checkpoint cannot be written: {path}: {reason}") from error
            print(f"paceline: checkpoint not written: {path}: {reason}", file=sys.stderr, flush=True)
            self._event("checkpoint_failed", {"file": path.name, "next_iteration": done, "error": reason})
            return
        written = {"file": path.name, "next_iteration": done, "size_bytes": path.stat().st_size}
        self._event("checkpoint", written | {"duration_s": round(time.perf_counter() - start, 3)})
        gone = retention.apply(self._campaign_dir, self._campaign)
        if gone:
            self._event("removed", {"files": [p.name for p in gone]})

    def keep_finals(self) -> None:
        """Copy the newest checkpoint and the best; without room for them the campaign is complete all the same."""
        try:
            retention.keep_finals(self._campaign_dir, self._campaign)
        except (OSError, RecordError) as error:
            print(f"paceline: checkpoints not copied: {one_line(error)}", file=sys.stderr, flush=True)
            self._event("checkpoint_failed", {"error": one_line(error)})


def _reason(error: Exception, path: Path) -> str:
    """Return why a file could not be written; torch does not say that the disk is full."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < _LITTLE_BYTES:
            return f"no space left on the device ({one_line(error)})"
    return one_line(error)
