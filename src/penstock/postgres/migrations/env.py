"""The environment of Alembic: it uses the one connection that ``penstock.postgres.migrate`` passes to it."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="alembic_version",
    version_table_schema="penstock",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
