"""The service's side of the program that runs flow code."""
