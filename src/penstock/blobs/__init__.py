"""Uploaded files. PostgreSQL holds their descriptions; their bytes are in PostgreSQL, a folder or a bucket."""
