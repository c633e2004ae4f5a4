"""The HTTP endpoints of blobs, a file for each topic."""
