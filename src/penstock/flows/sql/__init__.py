"""The SQL of flows, and its typed functions."""
