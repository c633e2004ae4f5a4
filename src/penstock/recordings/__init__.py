"""Recordings: what audio a file really holds, how long it is, and its conversion for providers.

Files come from strangers. Nothing of theirs is decoded in a process of ours.
"""
