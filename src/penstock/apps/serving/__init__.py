"""An app in the layout of its document: its API at the root of a port, and an API for each of its services."""
