"""Uploaded files, kept in PostgreSQL, so that gateways and workers on different machines share them."""
