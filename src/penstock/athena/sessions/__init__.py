"""What all faces of the protocol share about sessions: the rules of input and output, and the forms for models."""
