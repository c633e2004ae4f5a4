"""The explicit lists of what each process is made of: gateway, worker and housekeeper, a file for each.

Rooms offer parts; here they are built from the settings, one of each per process, and handed to one another. Nothing
else imports the rooms of several roles.
"""
