"""Processes: their bond to a parent, stopping, exit statuses in words, growing delays, periodic work, bounded waits."""
