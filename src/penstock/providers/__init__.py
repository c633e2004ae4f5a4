"""Servers of speech and language models: which there are, asking one or several of them, and what they did."""
