"""The program that runs flow code, in a process of its own. It needs no database, no settings and no network."""
