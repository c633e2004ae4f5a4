"""Workers that claim straight from PostgreSQL, and their executors."""
