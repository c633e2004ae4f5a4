"""What Penstock can do, measured: ``make bench`` prints a table of every scenario.

Each figure stands beside a limit taken in the same run on the same machine, for machines differ and are noisy.
"""
