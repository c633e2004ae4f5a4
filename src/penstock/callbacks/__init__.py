"""Callbacks: the events of a tenant, sent to its HTTP endpoints."""
