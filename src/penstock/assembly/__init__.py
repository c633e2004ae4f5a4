"""The explicit lists of the parts of each process: gateway, worker and housekeeper, one file for each.

Rooms define parts. The modules here build one of each per process from the settings, and connect them. No other
module imports rooms of more than one role.
"""
