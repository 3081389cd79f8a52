"""How sure a success rate is, and the difference of two on the same episodes."""

from __future__ import annotations

import math


def wilson_interval(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a success rate: it stays inside [0, 1] and does not vanish at 0 or at 1.

    Source: Wilson (1927), without continuity correction.
    """
    if trials == 0:
        return 0.0, 1.0
    rate, share = successes / trials, z * z / trials
    centre = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / trials + share / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(only_first: int, only_second: int, *, both: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates on the same episodes, counted by who succeeds.

    It stays inside [-1, 1], and does not vanish where the two always agree.

    Source: Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired
    data (1998), method 10.
    """
    num = both + only_first + only_second + neither
    if num == 0:
        return -1.0, 1.0
    wins = both + only_first, both + only_second
    bounds = [wilson_interval(count, num) for count in wins]
    first, second = (count / num for count in wins)
    below, above = (first - bounds[0][0], second - bounds[1][0]), (bounds[0][1] - first, bounds[1][1] - second)
    twice = 2 * _agreement(only_first, only_second, both=both, neither=neither)
    low = math.sqrt(max(0.0, below[0] ** 2 - twice * below[0] * above[1] + above[1] ** 2))
    high = math.sqrt(max(0.0, above[0] ** 2 - twice * above[0] * below[1] + below[1] ** 2))
    return first - second - low, first - second + high


def _agreement(only_first: int, only_second: int, *, both: int, neither: int) -> float:
    """Correlation of the two, corrected for continuity where it is above 0; 0 where one always does the same."""
    num = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    cross = both * neither - only_first * only_second
    if cross > 0:
        cross = max(cross - num / 2, 0)
    return cross / math.sqrt(margins) if margins else 0.0


def mcnemar_p(only_first: int, only_second: int) -> float:
    """How likely a split at least as uneven is if either is as often the only one to succeed; two-sided, exact.

    Source: McNemar (1947), by the binomial distribution.
    """
    num, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(num, k) for k in range(fewer + 1)) / 2**num)
