"""Tools for processes: binding to a parent, stopping, exit statuses as text, backoff, periodic work, bounded waits."""
