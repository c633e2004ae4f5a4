"""Athena Serving's protocol as pure functions: envelopes, data objects, codes, schemas, and the forms of its RPC."""
