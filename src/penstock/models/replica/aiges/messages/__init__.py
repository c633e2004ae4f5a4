"""The messages of plugins."""
