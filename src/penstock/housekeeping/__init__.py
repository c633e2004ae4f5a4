"""Periodic work across all tenants: rescue, promotion, roll-up, retention and sweeping."""
