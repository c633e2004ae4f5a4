"""Connections to brokers, which carry hints and copies only: PostgreSQL has everything that they carry."""
