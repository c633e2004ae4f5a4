"""Keys, tickets and the audit log."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0006_access"
down_revision = "0005_usage"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
