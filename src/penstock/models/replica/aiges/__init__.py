"""The parts that the runtimes of engines share: calls of an engine, their data and codes, and descriptions."""
