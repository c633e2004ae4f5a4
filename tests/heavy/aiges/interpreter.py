"""Names the Python of the environment."""

import sys


class Interpreter:
    def predict(self) -> str:
        return sys.executable
