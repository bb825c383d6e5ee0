"""One night of learning: recalibrate, update each kind of model, judge, register the best.

Everything a night makes lies in ``results/retraining/<date>-<company>``: killed at any point, the
next call of that date goes on from there. One at a time, under a fenced lock; whoever lost the lock
meanwhile registers nothing. The champion is read, never changed: a candidate that passes the gate
is registered as the company's candidate, and what becomes of it is for the rollout to decide.

Torch is imported inside the update of a network alone.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from services.rl.data.experience import Experience
from services.rl.data.recalibrated import Simulator
from services.rl.data.replay_store import ReplayStoreError
from services.rl.errors import AtmrError, BundleError
from services.rl.serving.bundle import NETWORK, NETWORK_FOLDER, PLANNER, Bundle
from services.rl.serving.registry import CHAMPION

from .locks import FencedLocks, Held
from .loop import Loop
from .recalibration import recalibrate

if TYPE_CHECKING:
    from services.rl.training.learners import Budget

LOCK: Final = "retraining"
LOCK_TTL: Final = timedelta(minutes=30)
_RENEW_EVERY_S: Final = 5.0  # of the machine, also where a twin's clock runs faster
REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"
REPORT_SCHEMA: Final = 1

Say = Callable[[str], None]


class RetrainingBusyError(AtmrError):
    """Another retraining is under way."""


class GateLike(Protocol):
    """What a gate's report must tell; see `services.rl.evaluation.gate.GateReport`."""

    @property
    def go(self) -> bool:
        """Whether the candidate may go on."""
        ...

    @property
    def lines(self) -> Sequence[Any]:
        """Findings with ``name``, ``value`` and ``verdict``."""
        ...

    def write(self, folder: Path) -> list[Path]:
        """Write the report; its files, the JSON first."""
        ...


class Gate(Protocol):
    """Judges a candidate; `run_gate` with what it needs."""

    def __call__(
        self,
        candidate: Bundle,
        champion: Bundle | None,
        simulator: Simulator,
        experiences: Iterable[Experience],
        on: date,
        say: Say,
    ) -> GateLike:
        """The report."""
        ...


@dataclass
class KindReport:
    """What became of one kind of model.

    Attributes:
        kind: ``planner`` or ``dqn_matching``.
        version: Of the bundle; None: there is none.
        bundle: Its folder, under the night's.
        nightly: What the bundle tells of its origin.
        go: What the gate said; None: it was not asked.
        gain: Reward beyond the champion (beyond the heuristic where there is none) on the gate's
            fresh days, in percent of what the bookings are worth.
        failed: Lines of the gate that failed.
        gate_report: Its JSON, under the night's folder.
        why: Why there is no candidate, in a sentence.
        seconds: Of this process.
    """

    kind: str
    version: str | None = None
    bundle: str | None = None
    nightly: dict[str, Any] = field(default_factory=dict)
    go: bool | None = None
    gain: float | None = None
    failed: list[str] = field(default_factory=list)
    gate_report: str | None = None
    why: str | None = None
    seconds: float = 0.0


@dataclass
class RetrainingReport:
    """What a night came to.

    Attributes:
        company_id: Whose; None: of all companies.
        on: Date of the night, on the local clock.
        folder: Where everything lies.
        champion: Version that was learned from; None: there was none.
        champion_kind: Its kind.
        changes: What recent days were like; see `recalibrate`.
        experiences: In the store.
        kinds: One for each kind that was updated.
        registered: Version that became candidate; None: none was good enough.
        token: Of the lock.
        notes: What was replaced by something lesser.
        seconds: Of this process.
        finished: Every step is done.
    """

    company_id: int | None
    on: date
    folder: Path
    champion: str | None = None
    champion_kind: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    experiences: int = 0
    kinds: list[KindReport] = field(default_factory=list)
    registered: str | None = None
    token: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {**asdict(self), "on": self.on.isoformat(), "folder": str(self.folder)}
        return {"schema": REPORT_SCHEMA, **plain}

    @classmethod
    def read(cls, folder: Path) -> "RetrainingReport | None":
        """The report of a night that was finished; None if there is none."""
        try:
            raw = json.loads((folder / REPORT_JSON).read_text(encoding="utf-8"))
            if raw.pop("schema") != REPORT_SCHEMA or not raw["finished"]:
                return None
            kinds = [KindReport(**kind) for kind in raw.pop("kinds")]
            on = date.fromisoformat(raw.pop("on"))
            raw["folder"] = folder
            return cls(on=on, kinds=kinds, **raw)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def markdown(self) -> str:
        """For people, in English."""
        whose = "all companies" if self.company_id is None else f"company {self.company_id}"
        lines = [
            f"# Retraining of {self.on.isoformat()}, {whose}",
            "",
            f"Champion: {self.champion or 'none'}"
            + (f" ({self.champion_kind})" if self.champion_kind else "")
            + f". Registered as candidate: **{self.registered or 'nothing'}**. "
            f"{self.experiences} experiences in the store; {self.seconds:.0f} s.",
            "",
            "| kind | version | gate | gain, % of worth | failed lines | why not |",
            "|---|---|---|---|---|---|",
        ]
        for kind in self.kinds:
            verdict = {True: "GO", False: "NO-GO", None: "not asked"}[kind.go]
            gain = "" if kind.gain is None else f"{kind.gain:+.2f}"
            lines.append(
                f"| {kind.kind} | {kind.version or ''} | {verdict} | {gain} | "
                f"{', '.join(kind.failed)} | {kind.why or ''} |"
            )
        lines += ["", "## Recent days", "", "| | then | now |", "|---|---|---|"]
        for name, value in self.changes.items():
            if isinstance(value, dict) and "now" in value:
                lines.append(f"| {name} | {value['then']} | {value['now']} |")
        for place in self.changes.get("places", []):
            lines.append(
                f"| {place['place']}, % of trips' ends | {place['then_percent']} | "
                f"{place['now_percent']} |"
            )
        ratio = self.changes.get("speed_ratio")
        if ratio:
            lines.append(f"| speed, real over served | 1 | {ratio['real_over_served']} |")
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"


def retrain(
    loop: Loop,
    company_id: int | None,
    *,
    kinds: Sequence[str] | None = None,
    budget: "Budget | None" = None,
    gate: Gate | None = None,
    on: date | None = None,
    lock_ttl: timedelta = LOCK_TTL,
    code_commit: str | None = None,
    say: Say = lambda _: None,
) -> RetrainingReport:
    """One night for one company.

    Args:
        loop: Database, registry, store, clock, scenario.
        company_id: Whose; None: of a database with one company, for all.
        kinds: Default: the champion's kind and ``dqn_matching``.
        budget: Default: `Budget` with the settings' minutes and share of production.
        gate: Default: `run_gate`.
        on: Default: today on the local clock. A night that was finished is not repeated.
        lock_ttl: How long a process that was killed keeps others out.
        code_commit: For the report.
        say: Told what happens.

    Raises:
        RetrainingBusyError: If another retraining is under way.
        LockLostError: If this one took so long to be heard of that another began.
        AtmrError: If the history or the folder cannot be read or written; what one kind of model
            fails of is told in the report instead.
    """
    from services.rl.training.learners import Budget

    begun = time.monotonic()
    on = loop.clock.now().astimezone(loop.config.zone).date() if on is None else on
    who = "all" if company_id is None else str(company_id)
    folder = loop.home / "results" / "retraining" / f"{on.isoformat()}-{who}"
    finished = RetrainingReport.read(folder)
    if finished is not None:
        say(f"{folder.name} was finished before")
        return finished
    locks = FencedLocks(loop.database, loop.clock)
    held = locks.acquire(LOCK, f"{socket.gethostname()}:{os.getpid()} {folder.name}", lock_ttl)
    if held is None:
        raise RetrainingBusyError(
            f"another retraining is under way (or was killed less than {lock_ttl} ago); try later"
        )
    budget = budget or Budget(
        minutes=loop.config.train_minutes, production_share=loop.config.production_share
    )
    with locks.kept(held, lock_ttl, _RENEW_EVERY_S) as still_mine:
        judge = gate or _gate_of(loop.config.gate_days)
        night = _Night(loop, company_id, on, folder, budget, judge, say)
        report = night.run(kinds, still_mine)
        report.token = held.token
        night.check_champion()
        if code_commit is not None:
            report.notes.append(f"code {code_commit}")
        _register(loop, report, locks, held)
        report.seconds = time.monotonic() - begun
        report.finished = bool(report.kinds)  # a night without anything to do may be asked again
        _write(folder / REPORT_MARKDOWN, report.markdown())
        _write(folder / REPORT_JSON, json.dumps(report.to_json(), indent=2) + "\n")
    say(f"registered: {report.registered or 'nothing'}")
    return report


class _Night:
    """The steps of one night up to the candidates."""

    def __init__(
        self,
        loop: Loop,
        company_id: int | None,
        on: date,
        folder: Path,
        budget: "Budget",
        gate: Gate,
        say: Say,
    ) -> None:
        self.loop, self.company_id, self.on, self.folder = loop, company_id, on, folder
        self.budget, self.gate, self.say = budget, gate, say
        self.report = RetrainingReport(company_id, on, folder)
        self.served: str | None = None  # champion when the night began

    def run(self, kinds: Sequence[str] | None, still_mine: Callable[[], None]) -> RetrainingReport:
        """Recalibrate, then update and judge each kind."""
        from services.rl.training.learners import taught_kinds

        report = self.report
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            champion = self._champion()
        except BundleError as error:
            report.notes.append(f"nothing is trained while the champion cannot be read: {error}")
            return report
        simulator = recalibrate(self.loop, self.company_id, self.folder / "recalibration")
        report.changes = simulator.changes
        if not simulator.changes.get("fitted"):
            why = simulator.changes.get("why", "no reason given")
            report.notes.append(f"the served demand is trained on: {why}")
        report.experiences = self._count()
        if not simulator.changes.get("fitted") and not report.experiences:
            report.notes.append("nothing has happened yet: there is nothing to learn from")
            return report
        teacher: Bundle | None = None
        for kind in kinds or taught_kinds(champion):
            still_mine()
            begun = time.monotonic()
            found = KindReport(kind)
            report.kinds.append(found)
            bundle = self._updated(kind, champion, simulator, teacher, found)
            if bundle is not None:
                teacher = bundle if kind == PLANNER else teacher
                still_mine()
                self._judge(bundle, champion, simulator, found)
            found.seconds = time.monotonic() - begun
        still_mine()
        return report

    def check_champion(self) -> None:
        """Take back what passed if it was held against a model that is served no more."""
        now = self.loop.registry.alias(self.company_id, CHAMPION)
        if now == self.served:
            return
        for kind in self.report.kinds:
            if kind.go:
                kind.go, kind.why = None, f"judged against {self.served}; {now} is champion now"
        self.report.notes.append(f"the champion changed during the night, to {now}")

    def _champion(self) -> Bundle | None:
        """What is served; None where there is none, or it is of another world.

        Raises:
            BundleError: If it cannot be read here: whoever serves it may still have it, and nothing
                may take its place without being compared with it.
        """
        version = self.served = self.loop.registry.alias(self.company_id, CHAMPION)
        if version is None:
            return None
        bundle = self.loop.registry.get(version)
        if bundle.manifest.scenario_hash != self.loop.scenario.sha256:
            self.report.notes.append(
                f"champion {version} is of another scenario ({bundle.manifest.scenario}): the "
                "update starts without it"
            )
            return None
        self.report.champion, self.report.champion_kind = version, bundle.kind
        return bundle

    def _updated(
        self,
        kind: str,
        champion: Bundle | None,
        simulator: Simulator,
        teacher: Bundle | None,
        found: KindReport,
    ) -> Bundle | None:
        """The bundle of a kind; None, and the reason in the report, if there is none."""
        from services.rl.training.learners import learner_of

        try:
            fallback = self._newest_network() if kind == NETWORK else None
            learner = learner_of(kind, fallback=fallback, teacher=teacher)
            bundle = learner.update(
                champion,
                simulator,
                self._experiences(),
                folder=self.folder / kind,
                budget=self.budget,
                seed=self.on.toordinal(),
                say=self.say,
            )
        except AtmrError as error:
            found.why = f"the update failed: {error}"
            return None
        found.version = bundle.version
        found.bundle = bundle.path.relative_to(self.folder).as_posix()
        found.nightly = dict(bundle.manifest.metrics.get("nightly", {}))
        return bundle

    def _judge(
        self, bundle: Bundle, champion: Bundle | None, simulator: Simulator, found: KindReport
    ) -> None:
        """Ask the gate, unless the champion itself was the best there was."""
        if champion is not None and champion.kind == bundle.kind and _unchanged(found.nightly):
            found.why = "nothing better than the champion was found"
            return
        target = self.folder / "gate" / found.kind
        try:
            told = self.gate(bundle, champion, simulator, self._experiences(), self.on, self.say)
            files = told.write(target)
        except AtmrError as error:
            found.why = f"the gate could not judge: {error}"
            return
        found.go = bool(told.go)
        found.failed = [line.name for line in told.lines if line.verdict == "fail"]
        found.gain = _gain(told, champion is not None)
        if files:
            found.gate_report = files[0].relative_to(self.folder).as_posix()
        if not found.go:
            found.why = "the gate says NO-GO"

    def _newest_network(self) -> Path | None:
        """Of the registered networks the one registered last, of the served scenario if any is."""
        others: Path | None = None
        for version in reversed(self.loop.registry.versions()):
            try:
                bundle = self.loop.registry.get(version)
            except BundleError:
                continue
            if bundle.kind != NETWORK:
                continue
            if bundle.manifest.scenario_hash == self.loop.scenario.sha256:
                return bundle.path / NETWORK_FOLDER
            others = others or bundle.path / NETWORK_FOLDER
        return others

    def _count(self) -> int:
        try:
            return self.loop.store.counts(self.company_id or 0).kept
        except ReplayStoreError as error:
            self.report.notes.append(f"learned without logged experiences: {error}")
            return 0

    def _experiences(self) -> Iterator[Experience]:
        """All of the store; what cannot be read ends them, and is told."""
        try:
            yield from self.loop.store.read(self.company_id or 0)
        except ReplayStoreError as error:
            self.report.notes.append(f"the store broke off: {error}")


def _gate_of(days: int) -> Gate:
    """`run_gate` on fresh days of recent demand and the last real ones."""

    def judge(
        candidate: Bundle,
        champion: Bundle | None,
        simulator: Simulator,
        experiences: Iterable[Experience],
        on: date,
        say: Say,
    ) -> GateLike:
        from services.rl.evaluation.gate import run_gate

        moved = simulator.training_scenario is not simulator.scenario
        return run_gate(
            candidate,
            champion,
            simulator.scenario,
            on=on,
            days=days,
            stress_days=max(20, days // 4),
            real_days=simulator.days,
            experiences=experiences,
            training_scenario=simulator.training_scenario if moved else None,
            say=say,
        )

    return judge


def _unchanged(nightly: dict[str, Any]) -> bool:
    """Whether an update kept the champion as it was."""
    return nightly.get("kept") == "champion" or nightly.get("kept_step") == 0


def _gain(told: GateLike, against_champion: bool) -> float | None:
    """Reward beyond the champion, or the heuristic where there is none; percent of worth."""
    wanted = "champion.reward" if against_champion else "heuristic.reward"
    for line in told.lines:
        if line.name == wanted and line.value is not None and np.isfinite(line.value):
            return float(line.value)
    return None


def _register(loop: Loop, report: RetrainingReport, locks: FencedLocks, held: Held) -> None:
    """The best of those that passed, with the proof that it is still this night's turn."""
    passed = [kind for kind in report.kinds if kind.go and kind.bundle is not None]
    for kind in passed:
        # The gate's margins bear what chance shows between two equals. Night after night they
        # would add up: a candidate that its days rank below what is served is none.
        if kind.gain is None or kind.gain < 0.0:
            told = "cannot be told" if kind.gain is None else f"is {kind.gain:+.2f} % of worth"
            kind.why = f"within the gate's margins, but its gain {told}"
    passed = [kind for kind in passed if kind.gain is not None and kind.gain >= 0.0]
    if not passed:
        return
    best = max(passed, key=lambda kind: kind.gain or 0.0)
    assert best.bundle is not None
    gain = f", {best.gain:+.2f} % of worth on the gate's days"
    where = None
    if best.gate_report is not None:
        where = (report.folder / best.gate_report).relative_to(loop.home).as_posix()
    report.registered = loop.registry.register(
        report.folder / best.bundle,
        "retraining",
        f"night of {report.on.isoformat()}: {best.kind}{gain}"[:200],
        company=report.company_id,
        gate_report=where,
        before=lambda session: locks.check(session, held),
    )
    for other in passed:
        if other is not best:
            other.why = f"{best.kind} gained more"


def _write(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
