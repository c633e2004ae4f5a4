"""Quotas: how much a tenant, a key or a user may use, exact with any number of gateways."""
