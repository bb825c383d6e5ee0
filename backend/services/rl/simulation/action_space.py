"""The action space, with a draw among valid actions that costs less than a step."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt


class DispatchActions(gymnasium.spaces.Discrete):
    """``Discrete(N · M + 1)``: 0 waits, ``1 + d · M + b`` commits the b-th booking to driver d.

    Equal to Gymnasium's `Discrete` in everything but the speed of ``sample(mask)``: its own
    checks and ``choice`` take 30 µs, more than twice a step of the environment.
    """

    def sample(
        self,
        mask: npt.NDArray[np.int8] | None = None,
        probability: npt.NDArray[np.int8] | None = None,
    ) -> Any:
        """One action, uniform among those that the mask allows (among all without one)."""
        if mask is None or probability is not None:
            return super().sample(mask, probability)
        valid = np.flatnonzero(mask)
        if mask.shape != (self.n,) or not valid.size:
            return super().sample(mask)  # Gymnasium's words and its answer to an empty mask
        return valid[self.np_random.integers(valid.size)]
