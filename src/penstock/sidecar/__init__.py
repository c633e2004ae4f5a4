"""The sidecar of a GPU host, which measures GPUs, containers, vLLM and WhisperX and changes nothing."""
