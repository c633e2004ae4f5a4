"""Models: one contract, several runtimes, each in processes of its own."""
