"""OpenAI's protocol, once: its requests, responses and streams, for whatever calls a server that speaks it.

Replicas import this room, so it reaches only msgspec, aiohttp and the plain modules below. Nothing in it trusts what a
server sends: every response is bounded by its peer, typed, and refused with CallFailed when it breaks the protocol.
"""
