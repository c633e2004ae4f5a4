"""Live calls to models, compared to other servers, each in its own environment and one after the other in each round.

``python -m benchmarks serving`` makes the environments on first use (``~/.cache/penstock-bench``), starts all servers,
and measures round by round, so that a noisy moment of the machine affects all of them.
"""
