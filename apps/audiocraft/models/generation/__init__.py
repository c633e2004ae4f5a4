"""Generation of sound and music with transformers' MusicGen classes, and files of it."""
