"""The gRPC server of Athena Serving, for engines and every other model. It needs the extra ``athena``."""
