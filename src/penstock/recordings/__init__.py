"""Recordings: detect the actual audio in a file, measure its duration, and convert it for providers.

Files are untrusted, so they are decoded only in separate, confined processes.
"""
