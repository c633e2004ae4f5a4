"""Run the SQL file of a migration."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run_beside(python_file: str) -> None:
    """Run the ``.sql`` file next to ``python_file`` in the migration's transaction.

    It is sent as one simple query, so that functions and DO blocks need no splitting into statements.
    """
    sql = Path(python_file).with_suffix(".sql").read_text(encoding="utf-8")
    bind = op.get_bind()
    bind.exec_driver_sql("SELECT 1")  # the driver opens the transaction at the first statement that it runs itself
    adapted = bind.connection.dbapi_connection
    if adapted is None:
        raise RuntimeError("the migration's connection is closed")
    adapted.run_async(lambda connection: connection.execute(sql))
