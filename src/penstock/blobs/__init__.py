"""Uploaded files. Their descriptions are in PostgreSQL; their bytes are there, in a folder or in a bucket."""
