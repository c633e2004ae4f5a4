"""Models: one contract and several runtimes, each of which runs in separate processes."""
