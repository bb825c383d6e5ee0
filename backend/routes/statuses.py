"""Words in the host's ``status`` columns, and which of them end a booking."""

PENDING = "PENDING"
ASSIGNED = "ASSIGNED"
IN_PROGRESS = "IN_PROGRESS"
COMPLETED = "COMPLETED"
NO_SHOW = "NO_SHOW"
CANCELED = "CANCELED"
UNASSIGNED = "UNASSIGNED"  # grace ran out: nobody came

OVER = frozenset({COMPLETED, NO_SHOW, CANCELED, UNASSIGNED})
