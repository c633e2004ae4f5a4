"""The kernel of flows: it runs and replays the code of a flow. It needs no database."""
