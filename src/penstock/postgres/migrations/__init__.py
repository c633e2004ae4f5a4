"""Migrations. Each is a plain SQL file in ``versions``, with a short Python file of the same name beside it."""
