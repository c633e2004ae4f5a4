"""Logging for wrappers."""
