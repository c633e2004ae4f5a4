"""The HTTP server and what the rooms use of it: requests, responses, and declarations of routes."""
