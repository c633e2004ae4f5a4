"""The files that deploy an app: images, a compose file, and the values of its variables."""
