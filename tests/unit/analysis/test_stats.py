"""Intervals: their formula, their coverage, and the end of warm-up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.analysis.stats import NOT_KNOWN, median_interval, mser5, ratio_interval, t_quantile, widening
from scipy import stats as scipy_stats

POSITIVE = st.floats(min_value=1e-3, max_value=1e9, allow_nan=False)


@pytest.mark.parametrize("freedom", [1.0, 1.37, 2.0, 3.5, 9.0, 29.0, 400.0])
def test_t_quantile_agrees_with_scipy(freedom: float) -> None:
    assert t_quantile(freedom) == pytest.approx(scipy_stats.t.ppf(0.975, freedom), rel=1e-9)


def test_no_repeat_has_no_interval() -> None:
    assert median_interval([]) == NOT_KNOWN
    assert median_interval([5.0]) == pytest.approx((5.0, None, None))
    assert ratio_interval([6.0], [2.0, 2.1]) == pytest.approx((6.0 / 2.05, None, None))
    assert ratio_interval([], [1.0]) == NOT_KNOWN


@given(st.lists(POSITIVE, min_size=2, max_size=40), st.lists(POSITIVE, min_size=2, max_size=12))
def test_the_printed_value_is_the_median_and_lies_inside(values: list[float], reference: list[float]) -> None:
    estimate = median_interval(values)
    assert estimate.value is not None and estimate.low is not None and estimate.high is not None
    assert estimate.value == pytest.approx(float(np.median(values)))
    assert estimate.low <= estimate.value * (1 + 1e-12) and estimate.value <= estimate.high * (1 + 1e-12)
    ratio = ratio_interval(values, reference)
    assert ratio.value == pytest.approx(float(np.median(values)) / float(np.median(reference)))
    assert ratio.value is not None and ratio.low is not None and ratio.high is not None
    assert ratio.low <= ratio.value * (1 + 1e-12) and ratio.value <= ratio.high * (1 + 1e-12)


def test_equal_repeats_have_an_interval_without_width() -> None:
    assert median_interval([3.0, 3.0, 3.0]) == pytest.approx((3.0, 3.0, 3.0))
    assert ratio_interval([6.0, 6.0], [3.0, 3.0]) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 10, 20, 30])
def test_table_of_medians_against_simulation(count: int) -> None:
    rng = np.random.default_rng(count)
    sample = rng.standard_normal((300_000, count))
    pivot = np.abs(np.median(sample, axis=1)) / sample.std(axis=1, ddof=1) * math.sqrt(count)
    assert widening(count) * t_quantile(count - 1) == pytest.approx(np.quantile(pivot, 0.95), rel=0.02)


@pytest.mark.parametrize(
    ("count", "reference", "spread"),
    [(3, 3, 1.0), (3, 3, 8.0), (3, 5, 1.0), (5, 3, 4.0), (5, 5, 1.0), (10, 10, 1.0), (2, 3, 1.0)],
)
def test_coverage_of_medians_and_ratios(count: int, reference: int, spread: float) -> None:
    """At least 93 % of the intervals hold the truth, whichever side is the noisier one."""
    rng = np.random.default_rng(100 * count + reference)
    median_hits = ratio_hits = 0
    trials = 2000
    for _ in range(trials):
        a = 200.0 * np.exp(rng.normal(0.0, 0.01 * spread, count))
        b = 100.0 * np.exp(rng.normal(0.0, 0.01, reference))
        alone = median_interval(a.tolist())
        both = ratio_interval(a.tolist(), b.tolist())
        assert alone.low and alone.high and both.low and both.high
        median_hits += alone.low <= 200.0 <= alone.high
        ratio_hits += both.low <= 2.0 <= both.high
    assert median_hits / trials >= 0.93
    assert ratio_hits / trials >= 0.93


def autocorrelated(rng: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    noise = np.empty(count)
    value = rng.normal(0.0, sigma)
    for i in range(count):
        noise[i] = value
        value = 0.5 * value + rng.normal(0.0, sigma * math.sqrt(0.75))
    return noise


@pytest.mark.parametrize("length", [20, 40, 80])
def test_mser_finds_a_transient(length: int) -> None:
    rng = np.random.default_rng(length)
    series = 1.0 + autocorrelated(rng, 300, 0.01)
    series[:length] += 0.5 * np.linspace(1.0, 0.2, length)
    state = mser5(series)
    assert state is not None and state.reached
    assert length - 5 <= state.cut <= length + 30


def test_mser_sees_no_steady_state_in_a_drift() -> None:
    state = mser5(np.linspace(1.0, 2.0, 200))
    assert state is not None and not state.reached


def test_mser_needs_six_batches() -> None:
    assert mser5([1.0] * 29) is None
    state = mser5([1.0] * 30)
    assert state is not None and state.cut == 0


def test_mser_of_short_runs() -> None:
    """Forty iterations, the first of which compile: found, hardly ever called a drift; and a drift is one."""
    rng = np.random.default_rng(5)
    found, drifting = [], []
    for _ in range(200):
        series = 1.0 + autocorrelated(rng, 43, 0.02)
        series[0] += 6.0
        series[:6] += np.linspace(0.5, 0.1, 6)
        found.append(mser5(series))
        drifting.append(mser5(1.0 + autocorrelated(rng, 43, 0.02) + np.linspace(0.0, 0.4, 43)))
    states = [state for state in found if state is not None]
    assert len(states) == 200 and all(5 <= state.cut <= 20 for state in states)
    assert sum(not state.reached for state in states) <= 10
    assert sum(state is not None and not state.reached for state in drifting) >= 180
