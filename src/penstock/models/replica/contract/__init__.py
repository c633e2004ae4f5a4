"""The contract of Python models: a class with a typed ``predict``, and the types of its parameters and results."""
