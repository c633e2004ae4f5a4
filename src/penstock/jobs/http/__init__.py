"""The HTTP of jobs: one class of routes a topic."""
