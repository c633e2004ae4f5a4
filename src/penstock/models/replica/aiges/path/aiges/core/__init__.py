"""The constants of the contract."""
