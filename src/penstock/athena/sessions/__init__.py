"""Sessions, as all faces of the protocol share them: the rules of input and output, and the forms for models."""
