"""A sum tree over priorities, vectorised: the index of prioritised replay (Schaul et al. 2016)."""

import numpy as np
import numpy.typing as npt

from .errors import UsageError

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class SumTree:
    """Priorities of ``capacity`` items; node i is the sum of nodes 2i and 2i + 1, node 1 the total.

    Attributes:
        nodes: ``(2 * leaves,)`` float64, ``leaves`` the next power of two.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise UsageError(f"a sum tree needs a positive capacity, got {capacity}")
        self.capacity = capacity
        self._leaves = 1 << (capacity - 1).bit_length()
        self.nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self.nodes[1])

    def set(self, index: Indices, priority: Floats) -> None:
        """Set priorities ``(K,)`` of items ``(K,)``; the last of repeated items counts.

        Raises:
            UsageError: If a priority is negative or not finite.
        """
        if index.size == 0:
            return
        if not (np.isfinite(priority).all() and (priority >= 0).all()):
            raise UsageError("a priority must be finite and not negative")
        node = index + self._leaves
        self.nodes[node] = priority
        node = np.unique(node)
        # Level by level: every parent once, from sums that are already right.
        while node[0] > 1:
            node = np.unique(node >> 1)
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def get(self, index: Indices) -> Floats:
        """Priorities of items, ``(K,)``."""
        return self.nodes[index + self._leaves]

    def find(self, mass: Floats) -> Indices:
        """For each mass in [0, total) the item whose interval holds it, ``(K,)``."""
        node = np.ones(len(mass), dtype=np.int64)
        left_over = mass.astype(np.float64).copy()
        for _ in range(self._leaves.bit_length() - 1):
            left = 2 * node
            below = self.nodes[left]
            # Never descend into an empty branch: rounding may leave a mass of just the total.
            right = (left_over >= below) & (self.nodes[left + 1] > 0.0)
            left_over -= np.where(right, below, 0.0)
            node = left + right
        return node - self._leaves
