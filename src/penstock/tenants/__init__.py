"""Tenants, which own data, and principals, which send requests."""
