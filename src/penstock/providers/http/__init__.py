"""The HTTP endpoints of providers, one file for each topic."""
