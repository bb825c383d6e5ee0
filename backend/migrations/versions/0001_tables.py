"""The tables of dispatch; the host's three where they are missing.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NO_COMPANY = sa.text("company_id IS NULL")
REASON = (
    "reason_code IN ('patient_request', 'continuity_of_care', 'vehicle', 'driver_unavailable', "
    "'traffic', 'medical', 'other')"
)

# Children first. The host's tables are not among them: they hold the host's data.
OURS = (
    "commitment",
    "model_alias",
    "experiment_unit",
    "experiment_event",
    "driver_status",
    "decision",
    "booking_pin",
    "model_version",
    "model_event",
    "idempotency_record",
    "fleet_snapshot",
    "experiment",
    "api_key",
)


def upgrade() -> None:
    """Create what is missing."""
    _create_host_tables(set(sa.inspect(op.get_bind()).get_table_names()))
    _create_access()
    _create_experiments()
    _create_models()
    _create_fleet()
    _create_log()


def downgrade() -> None:
    """Drop our tables."""
    for table in OURS:
        op.drop_table(table)


def _create_host_tables(there: set[str]) -> None:
    if "driver" not in there:
        op.create_table(
            "driver",
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column("company_id", sa.Integer(), nullable=False),
            sa.Column("driver_type", sa.String(length=20), nullable=False),
            sa.Column("is_active", sa.Boolean(), nullable=False),
            sa.Column("wheelchair_vehicle", sa.Boolean(), nullable=False),
            sa.Column("shift_start", sa.Time(), nullable=False),
            sa.Column("shift_end", sa.Time(), nullable=False),
            sa.Column("home_lat", sa.Double(), nullable=True),
            sa.Column("home_lon", sa.Double(), nullable=True),
            sa.PrimaryKeyConstraint("id"),
        )
        op.create_index("ix_driver_company_id", "driver", ["company_id"])
    if "booking" not in there:
        op.create_table(
            "booking",
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column("company_id", sa.Integer(), nullable=False),
            sa.Column("pickup_lat", sa.Double(), nullable=False),
            sa.Column("pickup_lon", sa.Double(), nullable=False),
            sa.Column("dropoff_lat", sa.Double(), nullable=False),
            sa.Column("dropoff_lon", sa.Double(), nullable=False),
            sa.Column("scheduled_time", INSTANT, nullable=False),
            sa.Column("created_at", INSTANT, nullable=False),
            sa.Column("status", sa.String(length=20), nullable=False),
            sa.Column("priority", sa.Integer(), nullable=False),
            sa.Column("is_urgent", sa.Boolean(), nullable=False),
            sa.Column("wheelchair_need", sa.Boolean(), nullable=False),
            sa.Column("is_return", sa.Boolean(), nullable=False),
            sa.Column("pickup_service_min", sa.Double(), nullable=True),
            sa.Column("dropoff_service_min", sa.Double(), nullable=True),
            sa.Column("cancelled_at", INSTANT, nullable=True),
            sa.CheckConstraint("priority BETWEEN 1 AND 5", name="ck_booking_priority"),
            sa.PrimaryKeyConstraint("id"),
        )
        op.create_index("ix_booking_company_scheduled", "booking", ["company_id", "scheduled_time"])
    if "assignment" not in there:
        op.create_table(
            "assignment",
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column("booking_id", sa.Integer(), nullable=False),
            sa.Column("driver_id", sa.Integer(), nullable=False),
            sa.Column("assigned_at", INSTANT, nullable=False),
            sa.Column("status", sa.String(length=20), nullable=False),
            sa.Column("actual_pickup_at", INSTANT, nullable=True),
            sa.Column("actual_dropoff_at", INSTANT, nullable=True),
            sa.ForeignKeyConstraint(
                ["booking_id"],
                ["booking.id"],
            ),
            sa.ForeignKeyConstraint(
                ["driver_id"],
                ["driver.id"],
            ),
            sa.PrimaryKeyConstraint("id"),
        )
        op.create_index("ix_assignment_booking_id", "assignment", ["booking_id"])
        op.create_index("ix_assignment_driver_id", "assignment", ["driver_id"])


def _create_access() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=60), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("last_used_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("prefix"),
    )
    op.create_index("ix_api_key_company_id", "api_key", ["company_id"])
    op.create_table(
        "idempotency_record",
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("company_id", "key"),
    )
    op.create_index("ix_idempotency_record_created", "idempotency_record", ["created_at"])


def _create_experiments() -> None:
    op.create_table(
        "experiment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.Column("unit", sa.String(length=15), nullable=False),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("rl_share", sa.Double(), nullable=False),
        sa.Column("block_min", sa.Integer(), nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("stopped_at", INSTANT, nullable=True),
        sa.Column("stop_reason", sa.String(length=200), nullable=True),
        sa.Column("guardrails", sa.JSON(), nullable=False),
        sa.Column("webhook_url", sa.String(length=500), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("mode IN ('off', 'shadow', 'ab')", name="ck_experiment_mode"),
        sa.CheckConstraint(
            "unit IN ('booking', 'company', 'switchback')", name="ck_experiment_unit"
        ),
        sa.CheckConstraint("block_min > 0", name="ck_experiment_block_min"),
        sa.CheckConstraint("epsilon >= 0 AND epsilon <= 1", name="ck_experiment_epsilon"),
        sa.CheckConstraint("rl_share >= 0 AND rl_share <= 1", name="ck_experiment_rl_share"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("company_id", "name", name="uq_experiment_company_name"),
    )
    op.create_index(
        "uq_experiment_default_name",
        "experiment",
        ["name"],
        unique=True,
        sqlite_where=NO_COMPANY,
        postgresql_where=NO_COMPANY,
    )
    op.create_table(
        "experiment_unit",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("unit", sa.String(length=80), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=20), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("experiment_id", "unit"),
    )
    op.create_table(
        "experiment_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("who", sa.String(length=80), nullable=False),
        sa.Column("why", sa.String(length=200), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_experiment_event_experiment_at", "experiment_event", ["experiment_id", "at"]
    )


def _create_models() -> None:
    op.create_table(
        "model_version",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.Column("scenario_hash", sa.String(length=64), nullable=False),
        sa.Column("code_commit", sa.String(length=64), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "model_alias",
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(length=20), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("alias IN ('champion', 'candidate', 'previous')", name="ck_model_alias"),
        sa.ForeignKeyConstraint(
            ["version"],
            ["model_version.version"],
        ),
        sa.PrimaryKeyConstraint("company_id", "alias"),
    )
    op.create_index("ix_model_alias_version", "model_alias", ["version"])
    op.create_table(
        "model_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("who", sa.String(length=80), nullable=False),
        sa.Column("why", sa.String(length=200), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=True),
        sa.Column("alias", sa.String(length=20), nullable=False),
        sa.Column("from_version", sa.String(length=64), nullable=True),
        sa.Column("to_version", sa.String(length=64), nullable=True),
        sa.Column("gate_report", sa.String(length=500), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_model_event_company_at", "model_event", ["company_id", "at"])


def _create_fleet() -> None:
    op.create_table(
        "driver_status",
        sa.Column("driver_id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("lat", sa.Double(), nullable=True),
        sa.Column("lon", sa.Double(), nullable=True),
        sa.Column("position_at", INSTANT, nullable=True),
        sa.Column("on_shift", sa.Boolean(), nullable=False),
        sa.Column("shift_start_at", INSTANT, nullable=True),
        sa.Column("shift_end_at", INSTANT, nullable=True),
        sa.Column("down", sa.Boolean(), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["driver_id"], ["driver.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("driver_id"),
    )
    op.create_index("ix_driver_status_company_id", "driver_status", ["company_id"])
    op.create_table(
        "commitment",
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("driver_id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("order_no", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(length=32), nullable=True),
        sa.Column("planned_depart_at", INSTANT, nullable=False),
        sa.Column("planned_pickup_at", INSTANT, nullable=False),
        sa.Column("planned_dropoff_at", INSTANT, nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("state IN ('queued', 'driving', 'onboard')", name="ck_commitment_state"),
        sa.CheckConstraint("slot >= 0", name="ck_commitment_slot"),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignment.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["booking_id"], ["booking.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["driver_id"], ["driver.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("booking_id"),
        sa.UniqueConstraint("assignment_id"),
        sa.UniqueConstraint("driver_id", "slot", name="uq_commitment_driver_slot"),
    )
    op.create_index("ix_commitment_company_id", "commitment", ["company_id"])
    op.create_table(
        "booking_pin",
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("driver_id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("pinned_by", sa.String(length=80), nullable=False),
        sa.Column("reason_code", sa.String(length=30), nullable=False),
        sa.Column("pinned_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            REASON,
            name="ck_booking_pin_reason",
        ),
        sa.ForeignKeyConstraint(["booking_id"], ["booking.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["driver_id"], ["driver.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("booking_id"),
    )
    op.create_index("ix_booking_pin_company_id", "booking_pin", ["company_id"])
    op.create_index("ix_booking_pin_driver_id", "booking_pin", ["driver_id"])


def _create_log() -> None:
    op.create_table(
        "fleet_snapshot",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("epoch_at", INSTANT, nullable=False),
        sa.Column("now_min", sa.Double(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("scenario_hash", sa.String(length=64), nullable=False),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("schema", sa.Integer(), nullable=False),
        sa.Column("num_drivers", sa.Integer(), nullable=False),
        sa.Column("num_bookings", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fleet_snapshot_company_epoch", "fleet_snapshot", ["company_id", "epoch_at"])
    op.create_table(
        "decision",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("company_id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("driver_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("arm", sa.String(length=20), nullable=False),
        sa.Column("unit", sa.String(length=80), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=True),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("features", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("fallback_reason", sa.String(length=60), nullable=True),
        sa.Column("plan_hash", sa.String(length=64), nullable=True),
        sa.Column("decided_at", INSTANT, nullable=False),
        sa.Column("decide_again_at", INSTANT, nullable=True),
        sa.Column("must_decide_by", INSTANT, nullable=True),
        sa.Column("shadow", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(length=15), nullable=False),
        sa.Column("reason_code", sa.String(length=30), nullable=True),
        sa.Column("overridden_by", sa.String(length=32), nullable=True),
        sa.CheckConstraint(
            "(action = 'assign') = (driver_id IS NOT NULL)", name="ck_decision_driver"
        ),
        sa.CheckConstraint("action IN ('assign', 'defer')", name="ck_decision_action"),
        sa.CheckConstraint(
            f"reason_code IS NULL OR {REASON}",
            name="ck_decision_reason",
        ),
        sa.CheckConstraint(
            "source IN ('policy', 'human', 'reconstructed')", name="ck_decision_source"
        ),
        sa.CheckConstraint("propensity >= 0 AND propensity <= 1", name="ck_decision_propensity"),
        sa.ForeignKeyConstraint(["overridden_by"], ["decision.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["snapshot_id"], ["fleet_snapshot.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_decision_booking", "decision", ["booking_id"])
    op.create_index("ix_decision_company_decided", "decision", ["company_id", "decided_at"])
    op.create_index("ix_decision_overridden_by", "decision", ["overridden_by"])
    op.create_index("ix_decision_snapshot_id", "decision", ["snapshot_id"])
