"""Stores of objects, which hold the bytes of blobs: PostgreSQL, a folder, or a bucket at S3, Google or Azure."""
