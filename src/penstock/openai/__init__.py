"""OpenAI's protocol: its requests, responses and streams, shared by everything that calls such a server.

Replicas import this room, so it reaches only msgspec, aiohttp and the plain modules below. Nothing in it trusts what a
server sends: every response is bounded by its peer, typed, and refused with CallFailed when it breaks the protocol.
"""
