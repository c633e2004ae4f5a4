"""The messages of Athena Serving's RPC. ``make fix`` generates the modules from the .proto files beside them."""
