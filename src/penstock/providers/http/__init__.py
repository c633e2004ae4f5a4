"""The HTTP face of providers: a file for each topic."""
