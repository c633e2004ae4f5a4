"""Pools of workers by the names that wrappers import."""
