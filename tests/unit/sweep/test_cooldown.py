"""Waiting for a device to cool down."""

from __future__ import annotations

import pytest
from paceline.profiling.cooldown import wait


class Room:
    """A clock, and a device that cools by half a degree a second."""

    def __init__(self, hot_c: float | None) -> None:
        self.now, self._hot_c = 0.0, hot_c

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read_c(self) -> float | None:
        return None if self._hot_c is None else self._hot_c - self.now / 2


@pytest.mark.parametrize(
    ("hot_c", "to_c", "at_most_s", "waited_s", "reached"),
    [
        (70.0, 50.0, 120.0, 40.0, True),
        (70.0, 50.0, 10.0, 10.0, False),
        (45.0, 50.0, 120.0, 0.0, True),
        (None, 50.0, 7.0, 7.0, None),  # no thermometer: the time is waited
        (70.0, None, 5.0, 5.0, None),
        (None, None, 0.0, 0.0, None),
    ],
)
def test_it_ends_at_the_temperature_or_the_time(
    hot_c: float | None, to_c: float | None, at_most_s: float, waited_s: float, reached: bool | None
) -> None:
    room = Room(hot_c)
    done = wait(to_c, at_most_s, room.read_c, room.clock, room.sleep)
    assert done.waited_s == pytest.approx(waited_s)
    assert done.reached is reached
    assert done.begin_c == hot_c
