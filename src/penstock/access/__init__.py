"""Access to gateways: tenants, their keys, tickets, the audit log, and the secret of the installation."""
