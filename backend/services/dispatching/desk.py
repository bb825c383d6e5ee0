"""Engines and dispatchers of this process: one model per company, exchanged when it changes.

Everything here can be thrown away at any time: plans are caches, engines are rebuilt from the
registry. Build it after a server has forked.

A promotion by any process is noticed within `LOOK_EVERY_S`. The new model is then loaded and
warmed up beside the old one, which answers until the new one is ready; each decision is wholly by
one of them, and names it.
"""

import logging
import threading
import time
from collections import OrderedDict
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from clock import Clock
from extensions import Database
from services.rl.ab_dispatcher import ABDispatcher, EngineArm
from services.rl.errors import AtmrError
from services.rl.experiments.arms import Answered
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.registry import Registry
from services.rl.simulation.engine import travel_tables
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import DispatchState

from .experiments import SqlExperiment, SqlUnits

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
"""How often a process asks which version is a company's champion."""

TRY_AGAIN_S: Final = 30.0
"""How often a process tries a model again that it could not load: a share or a database that was
away for a moment must not cost the champion its place until somebody promotes it anew."""

_MOST_PLANS: Final = 500


class Desk:
    """Who decides for which company, in this process.

    Args:
        scenario: The world.
        database: Experiments and units.
        clock: The present moment.
        registry: Model versions; None: the heuristic alone.
        budget_ms: Time for a decision.
        device: ``"cpu"`` or ``"cuda"``.

    Attributes:
        tables: Travel times of the scenario.
        problems: The latest trouble with a model, by version: it is not served.
    """

    def __init__(
        self,
        scenario: Scenario,
        database: Database,
        clock: Clock,
        registry: Registry | None,
        *,
        budget_ms: float = 50.0,
        device: str = "cpu",
    ) -> None:
        self.scenario = scenario
        self.tables: TravelTables = travel_tables(scenario)
        self.problems: dict[str, str] = {}
        self._database = database
        self._clock = clock
        self._registry = registry
        self._budget_ms = budget_ms
        self._device = device
        self._lock = threading.RLock()
        self._making = threading.Lock()  # takes seconds: nothing else waits for it
        self._loading: set[str] = set()  # beside the model that answers
        self._serving: dict[int, str] = {}  # company: version of its last answer
        self._engines: dict[str, InferenceEngine] = {}
        self._failed_at: dict[str, float] = {}  # version: when it was tried last
        self._champion: dict[int, tuple[float, str]] = {}  # company: looked at, version
        self._dispatchers: dict[int, ABDispatcher] = {}
        self._plans: OrderedDict[int, Any] = OrderedDict()

    # --- models ----------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compile and load before the first question; the default champion's engine is ready."""
        self.engine(self._version(0))

    def engine_for(self, company_id: int) -> InferenceEngine:
        """The engine with a company's champion; the heuristic alone if that cannot be served.

        While a new champion is loaded, the engine of the one before.
        """
        version = self._version(company_id)
        before = self._engines.get(self._serving.get(company_id, version))
        if version not in self._engines and before is not None:
            self._load_beside(version)
            return before
        failed_at = self._failed_at.get(version)
        if failed_at is not None and time.monotonic() - failed_at >= TRY_AGAIN_S:
            self._load_beside(version)
        made = self.engine(version)
        if self._serving.get(company_id) != version:
            self._now_serving(company_id, version)
        return made

    def _now_serving(self, company_id: int, version: str) -> None:
        """Forget engines that serve nobody; that just replaced stays, for a rollback at once.

        None is closed: a decision may be in the middle of one, which then goes with its last user.
        """
        default = self._version(0)
        with self._lock:
            kept = {self._serving.get(company_id), version, default, *self._loading}
            self._serving[company_id] = version
            kept |= {*self._serving.values()}
            for unused in self._engines.keys() - kept:
                del self._engines[unused]
                self._failed_at.pop(unused, None)
                self.problems.pop(unused, None)

    def _load_beside(self, version: str) -> None:
        with self._lock:
            if version in self._loading:
                return
            self._loading.add(version)
        threading.Thread(
            target=self._load, args=(version,), name=f"load-{version}", daemon=True
        ).start()

    def _load(self, version: str) -> None:
        try:
            with self._making:
                if version not in self._engines or version in self._failed_at:
                    self._engines[version] = self._made(version)
        finally:
            self._loading.discard(version)

    def _version(self, company_id: int) -> str:
        """The company's champion; an empty name where there is none. Looked up now and then."""
        now = time.monotonic()
        looked, version = self._champion.get(company_id, (-1e9, ""))
        if self._registry is None or now - looked < LOOK_EVERY_S:
            return version
        try:
            version = self._registry.alias(company_id or None, "champion") or ""
        except (AtmrError, OSError, SQLAlchemyError) as error:  # the last known champion stays
            logger.error("the registry does not answer: %s", error)
        self._champion[company_id] = (now, version)
        return version

    def stood_in_for(self) -> list[str]:
        """Champions, as last looked up, that the heuristic stands in for in this process."""
        champions = {version for _, version in [*self._champion.values()]}
        return sorted(champions & {*self.problems})

    def engine(self, version: str) -> InferenceEngine:
        """The engine of a version; one that cannot be loaded is replaced by the heuristic."""
        found = self._engines.get(version)
        if found is not None:
            return found
        with self._making:
            if version in self._engines:
                return self._engines[version]
            made = self._made(version)
            self._engines[version] = made
            return made

    def _made(self, version: str) -> InferenceEngine:
        bundle = None
        if version and self._registry is not None:
            try:
                bundle = self._registry.get(version)
                engine = InferenceEngine(
                    self.scenario, bundle, budget_ms=self._budget_ms, device=self._device
                )
                engine.warm_up()
                self.problems.pop(version, None)
                self._failed_at.pop(version, None)
                return engine
            except Exception as error:  # of a runtime too: patients ride
                expected = isinstance(error, AtmrError | OSError | SQLAlchemyError)
                logger.error(
                    "model %s is not served: %s",
                    version,
                    error,
                    exc_info=None if expected else error,
                )
                self.problems[version] = str(error) or type(error).__name__
                self._failed_at[version] = time.monotonic()
        engine = InferenceEngine(self.scenario, None, budget_ms=self._budget_ms)
        engine.warm_up()
        return engine

    # --- dispatchers -----------------------------------------------------------------------------

    def dispatcher(self, company_id: int) -> ABDispatcher:
        """The company's A/B dispatcher in this process."""
        found = self._dispatchers.get(company_id)
        if found is None:
            with self._lock:
                found = self._dispatchers.setdefault(
                    company_id,
                    ABDispatcher(
                        SqlExperiment(self._database, company_id),
                        EngineArm(_Champion(self, company_id), "heuristic"),
                        EngineArm(_Champion(self, company_id), "rl"),
                        SqlUnits(self._database, company_id),
                        scenario=self.scenario,
                        clock=self._clock,
                    ),
                )
        return found

    def plan(self, company_id: int) -> Any:
        """The plan of the company's last epoch, if this process has it."""
        return self._plans.get(company_id)

    def keep_plan(self, company_id: int, plan: Any) -> None:
        """Remember a plan; the oldest is forgotten."""
        with self._lock:
            self._plans[company_id] = plan
            self._plans.move_to_end(company_id)
            while len(self._plans) > _MOST_PLANS:
                self._plans.popitem(last=False)


class _Champion:
    """Whatever engine is a company's at the moment."""

    def __init__(self, desk: Desk, company_id: int) -> None:
        self._desk = desk
        self._company_id = company_id

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        use: Any = "rl",
    ) -> Answered:
        """See `InferenceEngine.decide`."""
        engine = self._desk.engine_for(self._company_id)
        return engine.decide(state, plan=plan, budget_ms=budget_ms, use=use)
