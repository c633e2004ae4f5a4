"""The code inside a replica: a process that runs one model and serves the calls of its host."""
