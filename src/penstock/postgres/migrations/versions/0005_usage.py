"""The usage of every attempt and live call: deltas, roll-ups by hour and day, and detail."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0005_usage"
down_revision = "0004_providers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
