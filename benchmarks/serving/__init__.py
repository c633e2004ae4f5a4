"""Live calls to models, beside what others offer: each in an environment of its own, one after the other in each round.

``python -m benchmarks serving`` makes the environments on first use (``~/.cache/penstock-bench``), starts all servers,
and measures round by round, so that a noisy moment of the machine meets all of them.
"""
