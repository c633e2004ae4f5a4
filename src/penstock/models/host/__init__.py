"""The host of models: owns replicas, routes calls to them, replaces them. Runs in a gateway or worker."""
