"""Recordings: what audio a file really holds, how long it is, and the same as a provider takes it.

Files come from strangers. Nothing of theirs is decoded in a process of ours.
"""
