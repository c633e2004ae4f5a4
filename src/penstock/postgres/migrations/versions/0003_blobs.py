"""Uploaded files."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0003_blobs"
down_revision = "0002_models"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
