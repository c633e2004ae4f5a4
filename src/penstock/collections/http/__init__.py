"""The HTTP endpoints of collections, a file for each topic."""
