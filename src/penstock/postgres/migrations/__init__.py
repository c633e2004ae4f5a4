"""Migrations: each is a plain SQL file and a short Python file of the same name beside it, in ``versions``."""
