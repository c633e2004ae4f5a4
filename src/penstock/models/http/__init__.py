"""The HTTP endpoints of models: one file for each topic, with its handlers and the declarations of its routes."""
