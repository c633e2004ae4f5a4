"""Marketplace apps: a flow, its models and what describes them, with an API, request records and statistics."""
