"""When a run has NVTX ranges. That they nest as they should is in test_hooks.py."""

from __future__ import annotations

import sys

import pytest
from paceline.profiling.ranges import Ranges, nvtx_ranges


def test_every_run_has_ranges_unless_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, wanted in ((None, True), ("1", True), ("0", False)):
        if value is None:
            monkeypatch.delenv("PACELINE_NVTX", raising=False)
        else:
            monkeypatch.setenv("PACELINE_NVTX", value)
        assert isinstance(nvtx_ranges(), Ranges if wanted else type(None))


def test_a_missing_nvtx_is_said_only_where_ranges_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    monkeypatch.delenv("PACELINE_NVTX", raising=False)
    assert nvtx_ranges() is None and not capsys.readouterr().err
    monkeypatch.setenv("PACELINE_NVTX", "1")
    assert nvtx_ranges() is None and "not installed" in capsys.readouterr().err
