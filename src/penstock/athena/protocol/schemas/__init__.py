"""Schemas of services: the documents that describe them in Athena's two dialects, and the rules that these state."""
