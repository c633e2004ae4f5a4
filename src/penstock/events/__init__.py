"""What happened, as one ordered stream per tenant: stored events, their positions, and the tail that reads them."""
