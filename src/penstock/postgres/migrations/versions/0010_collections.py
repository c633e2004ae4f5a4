"""Collections: named sets of vectors with attributes, searched for the nearest ones."""

from penstock.postgres.migrations.plain_sql import run_beside

revision = "0010_collections"
down_revision = "0009_callbacks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__)
