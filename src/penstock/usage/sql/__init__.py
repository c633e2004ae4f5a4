"""The statements of the usage ledger, with their typed functions. Every function takes the connection first."""
