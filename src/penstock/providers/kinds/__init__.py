"""The kinds of servers that providers are: one file for each."""
