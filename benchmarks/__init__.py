"""Measurements of Penstock: ``make bench`` prints a table of every scenario.

Each figure is shown with a limit measured in the same run on the same machine, because machines differ and are noisy.
"""
