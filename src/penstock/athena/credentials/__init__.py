"""Credentials of Athena's clients: app id, api key and secret, each beside an ordinary key of a tenant."""
