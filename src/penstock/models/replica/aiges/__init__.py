"""What the runtimes of engines share: the call of an engine, its data, its codes, and what it declares of itself."""
