"""The statements about jobs, and their typed functions: one module beside each ``.sql`` file."""
