"""Tables: the host's booking, driver and assignment, and those that dispatch adds."""

from .api_key import SCOPES, ApiKey, IdempotencyRecord
from .assignment import Assignment
from .base import DISPLAY_ZONE, Base, UtcDateTime, shown
from .booking import Booking, complete
from .commitment import COMMITMENT_STATES, BookingPin, Commitment
from .decision import DECISION_ACTIONS, DECISION_SOURCES, Decision
from .driver import Driver
from .driver_status import DriverStatus
from .experiment import (
    EXPERIMENT_MODES,
    EXPERIMENT_UNITS,
    Experiment,
    ExperimentEvent,
    ExperimentUnit,
)
from .fleet_snapshot import FleetSnapshot
from .learning import (
    TASK_STATES,
    BookingChange,
    CollectionMark,
    DeadLetter,
    FencedLock,
    TaskRun,
)
from .model_version import DEFAULT_COMPANY, MODEL_ALIASES, ModelAlias, ModelEvent, ModelVersion
from .reasons import REASON_CODES, ReasonCode

HOST_TABLES = ("driver", "booking", "assignment")
"""Tables of the host's backend, parents first: read and written, never altered or dropped."""

__all__ = [
    "COMMITMENT_STATES",
    "DECISION_ACTIONS",
    "DECISION_SOURCES",
    "DEFAULT_COMPANY",
    "DISPLAY_ZONE",
    "EXPERIMENT_MODES",
    "EXPERIMENT_UNITS",
    "HOST_TABLES",
    "MODEL_ALIASES",
    "REASON_CODES",
    "SCOPES",
    "TASK_STATES",
    "ApiKey",
    "Assignment",
    "Base",
    "Booking",
    "BookingChange",
    "BookingPin",
    "CollectionMark",
    "Commitment",
    "DeadLetter",
    "Decision",
    "Driver",
    "DriverStatus",
    "Experiment",
    "ExperimentEvent",
    "ExperimentUnit",
    "FencedLock",
    "FleetSnapshot",
    "IdempotencyRecord",
    "ModelAlias",
    "ModelEvent",
    "ModelVersion",
    "ReasonCode",
    "TaskRun",
    "UtcDateTime",
    "complete",
    "shown",
]
