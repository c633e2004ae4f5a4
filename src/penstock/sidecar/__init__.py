"""What runs beside the models on a GPU host: measures GPUs, containers, vLLM and WhisperX; changes nothing."""
