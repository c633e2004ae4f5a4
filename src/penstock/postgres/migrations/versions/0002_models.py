"""Models registered at run time."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0002_models"
down_revision = "0001_jobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
