"""What may be looked at as often as one likes: differences of arms, and the sample ratio.

People look at a dashboard all day. An ordinary interval, read whenever it pleases, misses its
promise: of A/A experiments looked at daily, far more than one in twenty is called at some time.

**Units that arrive** (bookings, switchback blocks) are drawn one by one, each on its own. Their
difference has a confidence *sequence*: it covers the truth at all looks together with probability
1 − α, up to the normal approximation (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021,
"Time-uniform central limit theory and asymptotic confidence sequences"). That blocks of one day
share its luck does no harm: the luck is common to both arms, and it is the arms that were drawn
(Ham, Bojinov, Lindon and Tingley 2023, "Design-based confidence sequences"). So the cluster is the
unit, not the day. Few units are paid for by Student's t at the boundary's own tail probability.

**Units that stay** (companies) are drawn once; more days bring no new draw, and the difference
between two groups of companies does not go to zero. They are looked at after `FIRST_LOOK_DAYS`
days, then each time the experiment is twice as long, the k-th look with α / (k (k + 1)): together
at most α. Between looks the last one stands.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import special

from services.rl.simulation.types import BoolArray

ENOUGH_UNITS: Final = 30
"""Units per arm, of those that arrive, before the normal approximation is trusted."""

ENOUGH_STAYING: Final = 5
"""The same for units that stay: theirs is Student's t at few looks, and it holds for fewer."""

FIRST_LOOK_DAYS: Final = 7

RATIO_P: Final = 0.0005
"""Of a split that is less likely than this: something sends units to the wrong arm."""

TIGHTEST_AT: Final = 1000.0
"""Units at which the sequence is tightest: a month or two of blocks, or twelve days of bookings."""

_RATIO_PRIOR: Final = 100.0  # units' worth of belief that the ratio is near the one that was set


def boundary(units: float, *, alpha: float = 0.05) -> float:
    """Half the width of the confidence sequence after so many units, in standard errors.

    The mixture's parameter makes it tightest near `TIGHTEST_AT` units (eq. 3 and appendix B.2 of
    the paper).
    """
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TIGHTEST_AT
    scaled = units * rho2 + 1
    return math.sqrt(2 * scaled / (units * rho2) * math.log(math.sqrt(scaled) / alpha))


def students(errors: float, freedom: float) -> float:
    """The quantile of Student's t that is as improbable as so many normal standard errors."""
    return -float(special.stdtrit(freedom, special.ndtr(-errors)))


def look_alpha(look: int, *, alpha: float = 0.05) -> float:
    """What the k-th look (from 1) at units that stay may spend."""
    return alpha / (look * (look + 1))


def looks_until(days: float) -> int:
    """How many looks at units that stay were due after so many days."""
    if days < FIRST_LOOK_DAYS:
        return 0
    return 1 + math.floor(math.log2(days / FIRST_LOOK_DAYS) + 1e-9)


def look_day(look: int) -> int:
    """After how many days the k-th look (from 1) at units that stay is due."""
    return FIRST_LOOK_DAYS << (look - 1)


def ratio_p(learned: Sequence[bool] | BoolArray, share: float) -> float:
    """Probability, at all looks together, of a split at least as odd as this.

    A Beta-binomial martingale against the share that was set (Lindon and Malek 2022, "Anytime-valid
    inference for multinomial count data"): 1 / its highest value so far is a p-value that may be
    looked at after every unit.

    Args:
        learned: Of each unit, in the order drawn, whether it went to the learned arm.
        share: That should have.
    """
    if not 0 < share < 1 or not len(learned):
        return 1.0  # nothing was drawn: there is no ratio to be wrong
    ones = np.cumsum(np.asarray(learned, dtype=np.float64))
    zeros = np.arange(1, len(ones) + 1) - ones
    a, b = _RATIO_PRIOR * share, _RATIO_PRIOR * (1 - share)
    log_e = special.betaln(a + ones, b + zeros) - special.betaln(a, b)
    log_e -= ones * math.log(share) + zeros * math.log1p(-share)
    return float(min(1.0, math.exp(-max(0.0, float(log_e.max())))))
