"""Who owns data and who sends requests: tenants and principals."""
