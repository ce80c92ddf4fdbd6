"""Intervals over repeats, ratios of them, and the end of warm-up.

The replicate is the job: iterations inside a job depend on one another, jobs do not. Run-to-run noise multiplies (a
slow node is slow by a percentage), so intervals are made on logarithms.

    estimate   median over the n repeats
    interval   exp(m -+ k_n s / sqrt(n)),  m: log of the median, s: standard deviation of log x over the repeats
    ratio      exp(m_a - m_b -+ t_f e),  e^2 = (h_a s_a)^2 / n_a + (h_b s_b)^2 / n_b,  f: Welch-Satterthwaite

k_n is the 95 % point of |median - mu| / (s / sqrt(n)) for n normal values (simulated once, 4 million samples for each
n); h_n = k_n / t_{n-1} is how much wider than for the mean that is: 1.03 for n = 3, 1.09 for n = 5. The interval is
centred on the median that is printed, so the printed value always lies inside. Simulated coverage is 94 to 98 %
(tests/unit/analysis/test_stats.py). Repeats are not paired: with three to five of them, pairing costs more degrees of
freedom than it gains unless neighbouring jobs correlate above 0.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# The 95 % points k_n for n = 2..30.
_MEDIAN_K = (
    *(12.706, 4.417, 3.273, 3.023, 2.757, 2.767, 2.612, 2.666, 2.553, 2.614, 2.521, 2.580, 2.504, 2.562, 2.492),
    *(2.547, 2.484, 2.534, 2.477, 2.527, 2.476, 2.519, 2.471, 2.514, 2.468, 2.508, 2.467, 2.503, 2.464),
)


class Estimate(NamedTuple):
    """A value with the bounds of its 95 % interval; bounds are None with fewer than two repeats."""

    value: float | None
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate of ``factor`` (positive) times the quantity."""
        return Estimate(*(None if v is None else v * factor for v in self))


NOT_KNOWN = Estimate(None, None, None)


def median_interval(values: Sequence[float]) -> Estimate:
    """Return the median of positive values over repeats, with its 95 % interval."""
    count = len(values)
    if count == 0:
        return NOT_KNOWN
    logs = np.log(np.asarray(values, dtype=np.float64))
    middle = math.log(float(np.median(values)))
    if count == 1:
        return Estimate(_exp(middle), None, None)
    half = widening(count) * t_quantile(count - 1) * float(logs.std(ddof=1)) / math.sqrt(count)
    return Estimate(_exp(middle), _exp(middle - half), _exp(middle + half))


def ratio_interval(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Return median(values) / median(reference), with its 95 % interval (Welch, on logarithms)."""
    if not len(values) or not len(reference):
        return NOT_KNOWN
    a, b = (np.log(np.asarray(v, dtype=np.float64)) for v in (values, reference))
    middle = math.log(float(np.median(values))) - math.log(float(np.median(reference)))
    if len(a) < 2 or len(b) < 2:
        return Estimate(_exp(middle), None, None)
    var_a, var_b = (widening(len(v)) ** 2 * float(v.var(ddof=1)) / len(v) for v in (a, b))
    total = var_a + var_b
    if total == 0.0:
        return Estimate(_exp(middle), _exp(middle), _exp(middle))
    freedom = total**2 / (var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1))
    half = t_quantile(freedom) * math.sqrt(total)
    return Estimate(_exp(middle), _exp(middle - half), _exp(middle + half))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700.0 else math.inf


def widening(count: int) -> float:
    """Return h_n: the interval of the median of n values relative to that of their mean."""
    if count - 2 < len(_MEDIAN_K):
        return _MEDIAN_K[count - 2] / t_quantile(count - 1)
    return math.sqrt(math.pi / 2)  # the limit for large n, from above


@lru_cache(maxsize=512)
def t_quantile(freedom: float, probability: float = 0.975) -> float:
    """Return the quantile (above 0.5) of Student's t with ``freedom`` (real, at least 1) degrees of freedom.

    scipy.stats has it too, but takes longer to import than a whole report takes.
    """
    target = 2.0 * (1.0 - probability)  # P(|t| > q) = I_{f/(f+q^2)}(f/2, 1/2)
    low, high = 0.0, 2.0
    while two_sided(high, freedom) > target:
        low, high = high, high * 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if two_sided(middle, freedom) > target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def two_sided(q: float, freedom: float) -> float:
    """Return P(|t| > q) of Student's t with ``freedom`` (real, at least 1) degrees of freedom."""
    return _incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + q * q))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1.0 + coefficient * d
            c = 1.0 + coefficient / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for how many there are: 5 % is then the chance of one error or more (Holm 1979)."""
    corrected = [1.0] * len(p_values)
    worst = 0.0
    for number, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - number)))
        corrected[i] = worst
    return corrected


class SteadyState(NamedTuple):
    """Where MSER-5 puts the start of the steady state."""

    cut: int
    """Leading values that belong to a transient."""
    reached: bool
    """False if the rule would cut half of the values or more: no steady state was seen."""


def mser5(values: Sequence[float] | Floats, batch: int = 5) -> SteadyState | None:
    """Return how many leading values belong to a transient, or None with fewer than six batches of values.

    Marginal standard error rule on means of batches of five (White, Cobb, Spratt 2000): the cut d minimises sum_{i>d}
    (x_i - mean_{>d})^2 / (n - d)^2. Only the first half is searched, as the rule's authors advise: with few values
    left, the criterion falls by chance. A minimum at the end of the search may be such chance too, the more so with
    the few batches of a short run: the cut is then drawn back to the first d that tells the same mean within twice its
    standard error, and no steady state was reached if what is kept still drifts.
    """
    data = np.asarray(values, dtype=np.float64)
    count = len(data) // batch
    if count < 6:
        return None
    means = data[: count * batch].reshape(count, batch).mean(axis=1)  # what is left over lies at the end: steady
    centred = (means - means.mean())[::-1]
    left = np.arange(1, count + 1)
    sums, squares = np.cumsum(centred), np.cumsum(centred**2)
    criterion = (np.maximum(squares - sums**2 / left, 0.0) / left**2)[::-1]  # index d: the first d batches left out
    half = count // 2
    best = int(np.argmin(criterion[: half + 1]))
    cut = best
    if best == half:
        tails = means.mean() + (sums / left)[::-1]  # mean without the first d batches
        error = math.sqrt(criterion[best] * (count - best) / (count - best - 1))  # of the mean of what is kept
        allowed = 2.0 * error + 1e-12 * abs(float(tails[best]))
        cut = int(np.flatnonzero(abs(tails[: best + 1] - tails[best]) <= allowed)[0])
    return SteadyState(cut=cut * batch, reached=best < half or not _drifts(means[cut:]))


def _drifts(values: Floats) -> bool:
    """Return whether a straight line through values rises or falls beyond doubt (99 %)."""
    x = np.arange(len(values)) - (len(values) - 1) / 2.0
    spread = float(x @ x)
    slope = float(x @ values) / spread
    residual = values - values.mean() - slope * x
    error = math.sqrt(float(residual @ residual) / (len(values) - 2) / spread)
    return abs(slope) > t_quantile(len(values) - 2, 0.995) * error and abs(slope) > 1e-12 * abs(float(values.mean()))
