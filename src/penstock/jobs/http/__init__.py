"""The HTTP routes of jobs: one class per topic."""
