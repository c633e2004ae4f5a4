"""The inside of a replica: a process that runs one model and answers its host's calls."""
