"""The engine of every worker, wherever its jobs come from. It needs no database and no settings."""
