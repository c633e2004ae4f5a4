"""The metrics that vLLM servers publish."""

from __future__ import annotations

METRICS = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 10207.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="qwen2.5-14b"} 3.0
vllm:num_requests_running{engine="1",model_name="qwen2.5-14b"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="qwen2.5-14b"} 7.0
vllm:num_requests_waiting{engine="1",model_name="qwen2.5-14b"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="qwen2.5-14b",reason="capacity"} 7.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="qwen2.5-14b"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="qwen2.5-14b"} 0.5
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="qwen2.5-14b"} %(prompt)s
vllm:prompt_tokens_total{engine="1",model_name="qwen2.5-14b"} 100.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="qwen2.5-14b"} 1.7e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="qwen2.5-14b"} %(generation)s
vllm:generation_tokens_total{engine="1",model_name="qwen2.5-14b"} 5.0
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="qwen2.5-14b"} 3.0
vllm:iteration_tokens_total_sum{engine="0",model_name="qwen2.5-14b"} 3.0
"""


OLD_METRICS = b"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="opt \\"125m\\""} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="opt \\"125m\\""} NaN
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="opt \\"125m\\""} 0.125
"""


def metrics(prompt: float = 1000, generation: float = 50) -> bytes:
    """Return the metrics of a current vLLM server with two engines."""
    return (METRICS % {"prompt": prompt, "generation": generation}).encode()
