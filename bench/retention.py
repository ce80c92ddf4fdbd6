"""Which checkpoints of a campaign stay, and copies of those to keep. Scope: job (rank 0); standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paceline.bench import checkpoint as checkpoints
from paceline.bench.campaignfile import Campaign, CampaignDir
from paceline.bench.checkpoint import Checkpoint


def superfluous(found: Sequence[Checkpoint], campaign: Campaign) -> list[Checkpoint]:
    """Return the checkpoints that may go, by the campaign's policy.

    Only files that the campaign wrote itself (they have a note) can go; the newest never goes. A file without a number
    in its name, such as the best one that rl_games keeps, belongs to the trainer and stays.
    """
    if campaign.keep_last == 0:
        return []
    own = [c for c in found if c.index is not None and c.index.get("numbered")]
    own.sort(key=lambda c: (c.next_iteration, c.modified_unix_s), reverse=True)
    stays = {c.path for c in own[: campaign.keep_last]}
    if campaign.keep_every:
        # rsl_rl saves after iteration 0, 50, 100, ..., rl_games after 50, 100, ... are done.
        stays |= {c.path for c in own if {c.next_iteration % campaign.keep_every} & {0, 1}}
    rewarded = sorted((c for c in own if c.reward is not None), key=lambda c: c.reward or 0.0, reverse=True)
    stays |= {c.path for c in rewarded[: campaign.keep_best]}
    return [c for c in own if c.path not in stays]


def apply(campaign_dir: CampaignDir, campaign: Campaign) -> list[Path]:
    """Delete the checkpoints that the policy lets go, and return their paths."""
    gone = []
    for checkpoint in superfluous(checkpoints.find(campaign_dir.trainer), campaign):
        checkpoints.index_path(checkpoint.path).unlink(missing_ok=True)
        checkpoint.path.unlink(missing_ok=True)
        gone.append(checkpoint.path)
    return gone


def keep_finals(campaign_dir: CampaignDir, campaign: Campaign) -> list[Path]:
    """Copy the newest checkpoint and the best ones of a campaign to ``checkpoints/``; return the copies.

    Copies of earlier calls that are no longer among them stay: they were the best of their time.
    """
    found = [c for c in checkpoints.find(campaign_dir.trainer) if checkpoints.why_incomplete(c.path) is None]
    best = sorted((c for c in found if c.reward is not None), key=lambda c: c.reward or 0.0, reverse=True)
    wanted = {c.path: c for c in [*found[:1], *best[: campaign.keep_best]]}
    return [checkpoints.keep(path, campaign_dir.checkpoints) for path in wanted]
