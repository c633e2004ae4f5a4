"""The routes of tenants, keys, tickets and the audit log."""
