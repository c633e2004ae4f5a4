"""PostgreSQL: the embedded server, connections, statements, migrations and wake-ups."""
