"""Requests to servers elsewhere: checked addresses, bounded responses, gates, and what each failure means."""
