"""Athena Serving: its gateway protocol over HTTP, WebSocket and gRPC, for engines and every other model."""
