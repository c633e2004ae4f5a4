"""Models over HTTP: one file for each topic, with its handlers and the declarations of its routes."""
