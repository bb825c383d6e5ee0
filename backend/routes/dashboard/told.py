"""Decisions told in words, from what the log holds and nothing else."""

from dataclasses import dataclass
from datetime import datetime

from models import Decision
from services.dispatching.operating_day import operating_day
from services.rl.simulation.scenarios import Rules

from .formats import Formats
from .words import Words


@dataclass(frozen=True)
class Teller:
    """Tells decisions in one language.

    Attributes:
        t: Its words.
        fmt: Its formats.
        rules: Of the scenario: minutes of the log count from the start of its day.
    """

    t: Words
    fmt: Formats
    rules: Rules

    def decision(self, row: Decision) -> list[str]:
        """Sentences: what was decided, what was expected of it, what was special."""
        told = [self._what(row)]
        told += self._expected(row)
        features = row.features or {}
        if features.get("explored"):
            told.append(self.t("said.explored", k=row.k))
        if features.get("conflict"):
            told.append(self.t("said.conflict"))
        if row.fallback_reason is not None:
            told.append(self.t("said.fallback", why=self.t.fallback(row.fallback_reason)))
        if row.overridden_by is not None:
            told.append(self.t("said.overridden"))
        return told

    def answered_by(self, row: Decision) -> str:
        """Who made it: a person, a model, or the heuristic (and whether as a fallback)."""
        if row.source != "policy":
            return self.t("by.human" if row.source == "human" else "by.reconstructed")
        if row.fallback_reason is not None:
            return self.t("by.fallback", why=self.t.fallback(row.fallback_reason))
        if row.arm == "heuristic" or row.model is None:
            return self.t("by.heuristic")
        return self.t("by.model", version=row.model)

    def planned_pickup(self, row: Decision) -> datetime | None:
        """When the patient was to be fetched, by the plan of this decision."""
        minute = (row.features or {}).get("pickup_min")
        if minute is None:
            return None
        return operating_day(row.decided_at, self.rules, self.fmt.zone).instant(float(minute))

    def _what(self, row: Decision) -> str:
        if row.shadow:
            kind = "said.shadow_defer" if row.driver_id is None else "said.shadow_assign"
            return self.t(kind, driver=row.driver_id)
        if row.source == "human" and row.reason_code is not None:
            kind = "said.human_defer" if row.driver_id is None else "said.human_assign"
            return self.t(kind, driver=row.driver_id, why=self.reason(row.reason_code))
        if row.source == "human":
            return self.t("said.pin_wait" if row.driver_id is None else "said.pin",
                          driver=row.driver_id)  # fmt: skip
        return self.t(
            "said.defer" if row.driver_id is None else "said.assign", driver=row.driver_id
        )

    def reason(self, code: str) -> str:
        """A reason code in words, as the middle of a sentence."""
        words = self.t(f"why.{code}", missing="why.other")
        return words[:1].lower() + words[1:]

    def _expected(self, row: Decision) -> list[str]:
        features = row.features or {}
        if row.driver_id is None:
            if row.source == "human" or row.shadow or row.decide_again_at is None:
                return []
            again = self.fmt.time(row.decide_again_at)
            if row.must_decide_by is None:
                return [self.t("said.defer_none", again=again)]
            return [self.t("said.defer_until", again=again, by=self.fmt.time(row.must_decide_by))]
        told = []
        if "drive_min" in features and "deadhead_km" in features:
            away = self.fmt.number(features["drive_min"])
            km = self.fmt.number(features["deadhead_km"], 1)
            told.append(self.t("said.away", min=away, km=km))
        late = features.get("late_min")
        if late is not None:
            at = self.planned_pickup(row)
            minutes = self.fmt.number(late)
            if at is not None:
                kind = "said.late" if late >= 1 else "said.on_time"
                told.append(self.t(kind, at=self.fmt.time(at), min=minutes))
            elif late >= 1:
                told.append(self.t("said.late_only", min=minutes))
        return told
