"""Flows: durable functions over jobs."""
