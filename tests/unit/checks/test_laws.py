"""Laws: recovery of known parameters, bounds, verdicts, and coverage of the intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paceline.analysis.lawfit import MODELS, evaluate, solve
from paceline.analysis.laws import fit, gustafson_fraction, karp_flatt, parameter_intervals, predict_doubling
from scipy.optimize import least_squares

EIGHT = np.array([1, 2, 4, 8, 16, 32, 64, 128.0])


@pytest.mark.parametrize(
    ("model", "truth"),
    [
        ("amdahl", [0.07]),
        ("gustafson", [0.2]),
        ("power_law", [0.83]),
        ("usl_fixed_lambda", [0.04, 0.0005]),
        ("usl_free_lambda", [1.05, 0.03, 0.0008]),
    ],
)
def test_recovers_what_it_was_made_from(model: str, truth: Any) -> None:
    values = evaluate(model, EIGHT, np.array([truth]))[0]
    if model == "usl_free_lambda":  # S is 1 at the reference by definition: solve for the law itself
        found = solve(model, EIGHT, np.log(values)[None])[0]
        assert found == pytest.approx(truth, abs=1e-6)
        return
    law = fit(model, EIGHT, 1e5 * values)
    assert list(law.parameters.values()) == pytest.approx(truth, abs=1e-7)
    assert law.rms_log_residual < 1e-7 and law.identifiable, law.reason
    assert law.speedup(EIGHT) == pytest.approx(values)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.floats(0.3, 1.4), min_size=5, max_size=5))
def test_agrees_with_scipy(model: str, shrink: Any) -> None:
    n = np.array([1, 2, 4, 8, 16.0, 32.0])
    log_s = np.log(n * np.array([1.0, *np.cumprod(shrink).clip(0.05, 2)]))
    law = MODELS[model]

    def residual(q: Any) -> Any:
        return np.log(law.value(n, np.array([q]))[0]) - log_s

    best = min(
        (
            least_squares(residual, s, bounds=(law.lower, law.upper), xtol=1e-14, ftol=1e-14, gtol=1e-14)
            for s in law.starts
        ),
        key=lambda r: r.cost,
    )
    ours = residual(solve(model, n, log_s[None], iterations=300)[0])
    assert ours @ ours <= 2 * best.cost + 1e-7


def test_many_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(1)
    n = np.array([1, 2, 4, 8.0])
    log_s = np.log(n) - np.abs(rng.normal(0, 0.2, (50, 4))) * np.log(n)
    together = solve("usl_fixed_lambda", n, log_s)
    for row, expected in zip(log_s, together, strict=True):
        assert solve("usl_fixed_lambda", n, row[None])[0] == pytest.approx(expected, abs=1e-6)


def test_what_the_points_cannot_carry() -> None:
    few = fit("usl_fixed_lambda", [1, 2, 4, 8], [1000, 1850, 3100, 4200])
    assert not few.identifiable and "4 points, the law needs 6" in few.reason and few.peak_to_print is None
    bound = fit("usl_fixed_lambda", EIGHT, 1000 / (0.1 + 0.9 / EIGHT))
    assert not bound.identifiable and "bound 0" in bound.reason and bound.peak_world_size is None
    three = fit("amdahl", [1, 2, 4], [1000, 1800, 3000])
    assert three.identifiable and three.aicc is not None
    two = fit("amdahl", [1, 2], [1000, 1800])
    assert not two.identifiable and two.reason == "1 parameter on 2 points"
    values = evaluate("usl_fixed_lambda", EIGHT, np.array([[0.05, 0.0]]))[0]
    values[-1] *= 0.5
    alone = fit("usl_fixed_lambda", EIGHT, values)
    assert not alone.identifiable and "comes from the point N=128 alone" in alone.reason


def test_intervals_of_a_fit_are_those_whose_coverage_is_counted() -> None:
    rng = np.random.default_rng(4)
    repeats = [1000 * n**0.9 * np.exp(rng.normal(0, 0.01, 4)) for n in (1, 2, 4)]
    law = fit("amdahl", [1, 2, 4], [float(np.median(each)) for each in repeats], repeats)
    assert law.intervals == parameter_intervals("amdahl", [1, 2, 4], repeats)
    low, high = law.intervals["s"]
    assert low < law.parameters["s"] < high


def test_no_interval_without_repeats() -> None:
    assert (
        fit(
            "amdahl", [1, 2, 4], [1000, 1800, 3000], [np.array([1000.0]), np.array([1800.0]), np.array([3000.0])]
        ).intervals
        == {}
    )


def test_reference_other_than_one() -> None:
    law = fit("amdahl", [2, 4, 8], 1000 / (0.1 + 0.9 / np.array([1, 2, 4.0])))
    assert law.parameters["s"] == pytest.approx(0.1) and law.speedup([8])[0] == pytest.approx(1 / (0.1 + 0.9 / 4))


def test_next_doubling() -> None:
    sizes = np.array([1, 2, 4, 8.0])
    rng = np.random.default_rng(3)
    repeats = [1000 * s * np.exp(rng.normal(0, 0.01, 5)) for s in evaluate("amdahl", sizes, np.array([[0.06]]))[0]]
    law = fit("amdahl", sizes, [np.median(r) for r in repeats], repeats)
    told: Any = predict_doubling(law, repeats, sizes.tolist())
    assert told.world_size == 16 and told.low < 1 / (0.06 + 0.94 / 16) < told.high
    assert told.low < told.speedup < told.high and told.efficiency == pytest.approx(told.speedup / 16)
    assert predict_doubling(fit("usl_fixed_lambda", sizes, [1000, 1850, 3100, 4200])) is None


def test_textbook_numbers() -> None:
    assert karp_flatt([1, 8], [1.0, 1 / (0.25 + 0.75 / 8)])[1] == pytest.approx(0.25)
    assert gustafson_fraction([1, 8], [1.0, 0.25 + 0.75 * 8])[1] == pytest.approx(0.25)


def coverage(studies: int, repeats: int, noise: float, seed: Any) -> float:
    """Return how often the 95 % interval of the Amdahl fraction holds the truth; jobs scatter by log-normal noise."""
    rng = np.random.default_rng(seed)
    n = np.array([1, 2, 4, 8.0])
    hits = 0
    for _ in range(studies):
        s = rng.uniform(0.02, 0.3)
        truth = evaluate("amdahl", n, np.array([[s]]))[0]
        # One job in twenty ran on a slow node; every job has its own factor.
        sample = [1e6 * x * np.exp(rng.normal(0, noise, repeats) - 0.02 * (rng.random(repeats) < 0.05)) for x in truth]
        low, high = parameter_intervals("amdahl", n, sample)["s"]
        hits += low <= s <= high
    return hits / studies


@pytest.mark.parametrize(("repeats", "noise"), [(3, 0.01), (5, 0.02)])
def test_intervals_cover_the_amdahl_fraction(repeats: int, noise: float) -> None:
    assert coverage(100, repeats, noise, 11) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "noise"), [(3, 0.01), (3, 0.03), (5, 0.01), (8, 0.02)])
def test_intervals_cover_the_amdahl_fraction_in_a_thousand_studies(repeats: int, noise: float) -> None:
    assert coverage(1000, repeats, noise, 12) >= 0.93
