"""Events in one ordered stream per tenant: their storage, their positions, and the tail that reads new ones."""
