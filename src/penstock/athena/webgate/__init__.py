"""Athena's protocol over HTTP and WebSocket."""
