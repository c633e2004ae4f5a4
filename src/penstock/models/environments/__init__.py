"""Virtual environments of models: one for each lock file, in the user's cache folder.

Lock files name every package with its version and hashes. Nothing of Penstock's own dependencies is installed in them
but what a replica imports.
"""
