"""Servers elsewhere: connections to addresses that were checked, and what their answers mean."""
