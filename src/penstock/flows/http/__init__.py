"""The routes of flows and runs."""
