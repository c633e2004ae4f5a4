"""The sidecar of a GPU host: it measures GPUs, containers, vLLM and WhisperX, and changes nothing."""
