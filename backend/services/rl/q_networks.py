"""Q-networks: the roadmap's flat `QNetwork`, and `PairQNetwork`, which scores every pair alike.

Both give Q of shape ``(B, N * M + 1)`` and serve one `DQNAgent` through `QFunction`: a batch of
observations and masks is *prepared* once (features of the valid pairs, computed in compiled code)
and then asked for what is needed: all values, or those of given actions only.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .errors import PolicyError
from .simulation.edges import EDGES_VERSION, NUM_EDGE, edges_of_rows
from .simulation.engine import Engine
from .simulation.memory import Memory
from .simulation.observation import CONTEXT, ROW_BOOKING, ROW_DRIVER, ObservationLayout

FLOOR = -1.0e9
"""Q of a forbidden action: finite, so that ``(1 - done) * FLOOR`` is never NaN."""

NUM_CONTEXT = len(CONTEXT)
NUM_DRIVER = len(ROW_DRIVER) - 2  # without "present" and the zone
NUM_BOOKING = len(ROW_BOOKING) - 2  # without the zones
_PRESENT_DRIVER, _PRESENT_BOOKING = NUM_DRIVER, 0

Observations = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


class QFunction(nn.Module):
    """What the agent needs of a network."""

    num_actions: int

    def prepare(
        self,
        observations: Observations,
        masks: Masks,
        actions: npt.NDArray[np.int64] | None = None,
    ) -> Any:
        """Bring a batch to the network's device, with whatever features it derives.

        Args:
            observations: ``(B, size)``.
            masks: ``(B, A)``, True where valid.
            actions: ``(B,)``, actions that will be asked for even where the network itself
                would not consider them.
        """
        raise NotImplementedError

    def considered(self, prepared: Any) -> Tensor:
        """Actions among which the network chooses, ``(B, A)`` bool: the valid ones, or fewer."""
        raise NotImplementedError

    def values(self, prepared: Any) -> Tensor:
        """Q of every action, ``(B, A)``; those not considered are `FLOOR`."""
        raise NotImplementedError

    def values_of(self, prepared: Any, actions: Tensor) -> Tensor:
        """Q of one action each, ``(B,)``."""
        return self.values(prepared).gather(1, actions[:, None])[:, 0]

    def architecture(self) -> dict[str, Any]:
        """What is needed to build the same network again, JSON-able."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.parameters()).device


class QNetwork(QFunction):
    """The roadmap's network: state vector -> 512 -> 256 -> 128 -> one Q per action.

    Args:
        state_dim: Length of the observation.
        action_dim: Number of actions.
        hidden: Widths of the hidden layers.
        dueling: Split the last layer into a value and advantages, whose mean over the *valid*
            actions is taken off (Wang et al. 2016).
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (512, 256, 128),
        *,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        if state_dim < 1 or action_dim < 1 or not hidden or min(hidden) < 1:
            raise PolicyError(
                f"a network needs positive sizes, got {state_dim} -> {hidden} -> {action_dim}"
            )
        self.state_dim = state_dim
        self.num_actions = action_dim
        self.hidden = tuple(hidden)
        self.dueling = dueling
        layers: list[nn.Module] = []
        width = state_dim
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(inplace=True)]
            width = size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, action_dim)
        self.value = nn.Linear(width, 1) if dueling else None

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Q of every action, ``(B, A)``, from ``states (B, state_dim)``."""
        features = self.body(states)
        q: Tensor = self.head(features)
        if self.value is not None:
            valid = torch.ones_like(q) if mask is None else mask.to(q.dtype)
            # A final state may have no valid action: its value must still be a number.
            count = valid.sum(1, keepdim=True).clamp(min=1.0)
            mean = (q * valid).sum(1, keepdim=True) / count
            q = self.value(features) + q - mean
        return q

    def prepare(
        self,
        observations: Observations,
        masks: Masks,
        actions: npt.NDArray[np.int64] | None = None,  # noqa: ARG002 - every action has a value
    ) -> tuple[Tensor, Tensor]:
        """See `QFunction.prepare`."""
        device = self.head.weight.device
        return torch.from_numpy(observations).to(device), torch.from_numpy(masks).to(device)

    def considered(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """See `QFunction.considered`."""
        return prepared[1]

    def values(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """See `QFunction.values`."""
        states, mask = prepared
        return torch.where(mask, self(states, mask), FLOOR)

    def values_of(self, prepared: tuple[Tensor, Tensor], actions: Tensor) -> Tensor:
        """See `QFunction.values_of`."""
        if self.value is not None:
            q: Tensor = self(*prepared).gather(1, actions[:, None])[:, 0]
            return q
        # Each state meets the one row of the head that is asked for, not all of them.
        rows = nn.functional.embedding(actions, self.head.weight)
        chosen: Tensor = (self.body(prepared[0]) * rows).sum(1) + self.head.bias[actions]
        return chosen

    def architecture(self) -> dict[str, Any]:
        """See `QFunction.architecture`."""
        return {
            "network": "flat",
            "state_dim": self.state_dim,
            "num_actions": self.num_actions,
            "hidden": list(self.hidden),
            "dueling": self.dueling,
        }


class PairFeatures:
    """Edges of a batch of rows, in compiled code, with a scenario's travel times and rules.

    Args:
        engine: Any engine of the scenario; its constants are used, its world is not.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine  # keeps the memory alive
        self._memory: Memory = engine.memory

    def __deepcopy__(self, _memo: dict[int, Any]) -> "PairFeatures":
        """Constants: a network and its copy share them."""
        return self

    def __call__(
        self,
        rows: Observations,
        masks: Masks,
        layout: ObservationLayout,
        hold_back_min: float,
        keep: npt.NDArray[np.int64] | None,
    ) -> tuple[Observations, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Edges ``(P, NUM_EDGE)`` and, for each, its state, driver and booking ``(P,)``.

        Raises:
            PolicyError: If rows or masks do not have the layout's sizes.
        """
        if rows.shape[1:] != (layout.size,) or masks.shape != (len(rows), layout.num_actions):
            raise PolicyError(  # compiled code would read beyond them
                f"rows of shape {rows.shape} and masks of shape {masks.shape} do not fit "
                f"{layout.num_drivers} drivers and {layout.max_bookings} bookings"
            )
        room = int(masks.sum()) + 1
        edges = np.empty((room, NUM_EDGE), dtype=np.float32)
        driver = np.empty(room, dtype=np.int64)
        booking = np.empty(room, dtype=np.int64)
        ends = np.empty(len(rows), dtype=np.int64)
        edges_of_rows(
            *self._memory,
            np.ascontiguousarray(rows),
            np.ascontiguousarray(masks),
            layout.num_drivers,
            layout.max_bookings,
            hold_back_min,
            np.full(len(rows), -1, dtype=np.int64) if keep is None else keep,
            ends,
            edges,
            driver,
            booking,
        )
        count = int(ends[-1])
        state = np.repeat(np.arange(len(rows)), np.diff(ends, prepend=0))
        return edges[:count], state, driver[:count], booking[:count]


@dataclass
class PreparedPairs:
    """A batch as `PairQNetwork` takes it; P valid pairs in all, in the order of actions."""

    context: Tensor  # (B, C)
    drivers: Tensor  # (B, N, F)
    bookings: Tensor  # (B, M, G)
    driver_present: Tensor  # (B, N, 1)
    booking_present: Tensor  # (B, M, 1)
    edges: Tensor  # (P, E)
    state: Tensor  # (P,)
    driver: Tensor  # (P,)
    booking: Tensor  # (P,)
    mask: Tensor  # (B, A), the actions considered


@dataclass(frozen=True)
class PairArchitecture:
    """Sizes of a `PairQNetwork`.

    Attributes:
        hidden: Width of the pair's, the context's and the value's hidden layers.
        pool: Width of the encoders whose means and maxima make the context.
        dueling: Take the mean advantage over valid actions off. Otherwise Q = V + A with both
            parts free, which needs only the pairs asked for.
        edges: Which edge features the network sees; False: only driver, booking and context.
        hold_back_min: Pairs with more slack than this (minutes until the latest departure that
            is on time) are not considered: a commitment cannot be undone, and what may wait
            loses nothing by waiting.
    """

    hidden: int = 64
    pool: int = 32
    dueling: bool = False
    edges: bool = True
    hold_back_min: float = 30.0


class PairQNetwork(QFunction):
    """One score per (driver, booking) pair with shared weights, for any N and M.

    ``Q(d, b) = V(s) + A(d, b)`` and ``Q(WAIT) = V(s) + A_wait(s)``, where
    ``A(d, b) = head(relu(Wd driver + Wb booking + We edge + Wc c)) + w edge``. ``c`` encodes the
    context with masked means and maxima of encoded driver rows ``h_d`` and booking rows ``h_b``,
    and ``V = v(c) + sum_d v(h_d) + sum_b v(h_b)`` grows with the fleet as a value must. The network
    is equivariant under permutations of drivers and bookings and blind to padding.

    Args:
        num_drivers: N of the observations' layout.
        max_bookings: M of the observations' layout.
        features: Computes edges; None only where `prepare` is not used.
        architecture: Sizes.
    """

    def __init__(
        self,
        num_drivers: int,
        max_bookings: int,
        features: PairFeatures | None,
        architecture: PairArchitecture | None = None,
    ) -> None:
        super().__init__()
        shape = architecture or PairArchitecture()
        self.shape = shape
        self.layout = ObservationLayout("rows", num_drivers, max_bookings)
        self.num_actions = self.layout.num_actions
        self._features = features
        h, pool = shape.hidden, shape.pool
        self.encode_driver = nn.Linear(NUM_DRIVER, pool)
        self.encode_booking = nn.Linear(NUM_BOOKING, pool)
        self.encode_context = nn.Linear(NUM_CONTEXT + 4 * pool + 2, h)
        self.pair_driver = nn.Linear(NUM_DRIVER, h)
        self.pair_booking = nn.Linear(NUM_BOOKING, h, bias=False)
        self.pair_context = nn.Linear(h, h, bias=False)
        self.pair_edge = nn.Linear(NUM_EDGE, h, bias=False)
        self.pair_hidden = nn.Linear(h, h)
        self.pair_score = nn.Linear(h, 1)
        self.edge_score = nn.Linear(NUM_EDGE, 1, bias=False)  # a linear matcher is a special case
        self.wait_hidden = nn.Linear(h, h)
        self.wait_score = nn.Linear(h, 1)
        self.value_hidden = nn.Linear(h, h)
        self.value_score = nn.Linear(h, 1)
        self.value_driver = nn.Linear(pool, 1, bias=False)
        self.value_booking = nn.Linear(pool, 1, bias=False)
        nn.init.zeros_(self.edge_score.weight)
        if not shape.edges:  # the compiled forward pass adds them in any case
            nn.init.zeros_(self.pair_edge.weight)
        for last in (self.pair_score, self.wait_score, self.value_score):
            nn.init.uniform_(last.weight, -1e-2, 1e-2)  # begin near zero: no bias between actions
            nn.init.zeros_(last.bias)

    # --- batches ---------------------------------------------------------------------------------

    def prepare(
        self,
        observations: Observations,
        masks: Masks,
        actions: npt.NDArray[np.int64] | None = None,
    ) -> PreparedPairs:
        """See `QFunction.prepare`; observations are of the ``rows`` layout."""
        if self._features is None:
            raise PolicyError("this network was built without a scenario to compute edges with")
        layout = self.layout
        edges, state, driver, booking = self._features(
            observations, masks, layout, self.shape.hold_back_min, actions
        )
        considered = np.zeros_like(masks)
        considered[:, 0] = True
        considered[state, 1 + driver * layout.max_bookings + booking] = True
        parts = layout.unpack(observations)
        drivers, bookings = parts["drivers"], parts["bookings"]
        to = self.device

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(to)

        return PreparedPairs(
            tensor(parts["context"]),
            tensor(drivers[..., :NUM_DRIVER]),
            tensor(bookings[..., :NUM_BOOKING]),
            tensor(drivers[..., _PRESENT_DRIVER : _PRESENT_DRIVER + 1]),
            tensor(bookings[..., _PRESENT_BOOKING : _PRESENT_BOOKING + 1]),
            tensor(edges),
            tensor(state),
            tensor(driver),
            tensor(booking),
            tensor(considered),
        )

    def considered(self, prepared: PreparedPairs) -> Tensor:
        """See `QFunction.considered`."""
        return prepared.mask

    def encode(self, p: PreparedPairs) -> tuple[Tensor, Tensor, Tensor]:
        """Encoded drivers ``(B, N, h)``, bookings ``(B, M, h)`` and context ``(B, h)``."""
        drivers = torch.relu(self.encode_driver(p.drivers)) * p.driver_present
        bookings = torch.relu(self.encode_booking(p.bookings)) * p.booking_present
        n = p.driver_present.sum(1)
        m = p.booking_present.sum(1)
        context = torch.cat(
            [
                p.context,
                drivers.sum(1) / n.clamp(min=1.0),
                drivers.amax(1),  # relu and zero padding: the maximum over those present
                bookings.sum(1) / m.clamp(min=1.0),
                bookings.amax(1),
                torch.log1p(n) / 5.0,
                torch.log1p(m) / 5.0,
            ],
            dim=1,
        )
        return drivers, bookings, torch.relu(self.encode_context(context))

    def state_value(self, drivers: Tensor, bookings: Tensor, context: Tensor) -> Tensor:
        """V, ``(B,)``: what all actions of a state share."""
        own = self.value_score(torch.relu(self.value_hidden(context)))
        value: Tensor = (
            own + self.value_driver(drivers).sum(1) + self.value_booking(bookings).sum(1)
        )
        return value[:, 0]

    def value_parameters(self) -> list[nn.Parameter]:
        """Parameters that move V and leave every advantage as it is."""
        parts = (self.value_hidden, self.value_score, self.value_driver, self.value_booking)
        return [parameter for part in parts for parameter in part.parameters()]

    def wait_advantage(self, context: Tensor) -> Tensor:
        """A of WAIT, ``(B,)``."""
        advantage: Tensor = self.wait_score(torch.relu(self.wait_hidden(context)))[:, 0]
        return advantage

    def pair_advantage(self, p: PreparedPairs, context: Tensor, pair: Tensor | None) -> Tensor:
        """A of the given pairs (rows of the valid ones; None: all), ``(K,)``."""
        state, driver, booking, edges = p.state, p.driver, p.booking, p.edges
        if pair is not None:
            state, driver, booking, edges = state[pair], driver[pair], booking[pair], edges[pair]
        mixed = (
            self.pair_driver(p.drivers[state, driver])
            + self.pair_booking(p.bookings[state, booking])
            + self.pair_context(context)[state]
        )
        linear: Tensor | float = 0.0
        if self.shape.edges:
            mixed = mixed + self.pair_edge(edges)
            linear = self.edge_score(edges)[:, 0]
        hidden = torch.relu(self.pair_hidden(torch.relu(mixed)))
        advantage: Tensor = self.pair_score(hidden)[:, 0] + linear
        return advantage

    # --- what the agent asks ---------------------------------------------------------------------

    def advantages(self, p: PreparedPairs) -> tuple[Tensor, Tensor, Tensor]:
        """V ``(B,)``, A of WAIT ``(B,)`` and A of all valid pairs ``(P,)``."""
        encoded = self.encode(p)
        pairs = self.pair_advantage(p, encoded[2], None)
        return self.state_value(*encoded), self.wait_advantage(encoded[2]), pairs

    def forward(self, p: PreparedPairs) -> Tensor:
        """Q of every action, ``(B, N * M + 1)``; forbidden ones are `FLOOR`."""
        value, wait, pairs = self.advantages(p)
        if self.shape.dueling:
            total = wait.index_add(0, p.state, pairs)
            value = value - total / p.mask.sum(1)
        q = torch.full(p.mask.shape, FLOOR, dtype=pairs.dtype, device=pairs.device)
        q[:, 0] = value + wait
        action = 1 + p.driver * self.layout.max_bookings + p.booking
        return q.index_put((p.state, action), value[p.state] + pairs)

    def values(self, prepared: PreparedPairs) -> Tensor:
        """See `QFunction.values`."""
        q: Tensor = self(prepared)
        return q

    def values_of(self, prepared: PreparedPairs, actions: Tensor) -> Tensor:
        """See `QFunction.values_of`; without dueling only the chosen pairs are computed."""
        if self.shape.dueling:
            return super().values_of(prepared, actions)
        p = prepared
        encoded = self.encode(p)
        value = self.state_value(*encoded)
        assigns = torch.nonzero(actions > 0)[:, 0]
        # Row of a pair among the valid ones: pairs lie in the order of actions.
        up_to = p.mask.cumsum(1)
        count = up_to[:, -1] - 1
        first = count.cumsum(0) - count
        pair = first[assigns] + up_to[assigns, actions[assigns]] - 2
        advantage = self.wait_advantage(encoded[2])
        chosen = self.pair_advantage(p, encoded[2], pair)
        return value + advantage.index_put((assigns,), chosen)

    def architecture(self) -> dict[str, Any]:
        """See `QFunction.architecture`."""
        return {
            "network": "pair",
            "num_drivers": self.layout.num_drivers,
            "max_bookings": self.layout.max_bookings,
            "layout_version": self.layout.version,
            "edges_version": EDGES_VERSION,
            **asdict(self.shape),
        }
