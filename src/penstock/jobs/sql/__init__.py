"""The SQL statements about jobs, and typed functions for them: one module for each ``.sql`` file."""
