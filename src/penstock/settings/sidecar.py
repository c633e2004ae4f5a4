"""Settings of sidecars, and of the gateway that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from penstock.masking import Secret
from penstock.settings.kinds import MILLISECOND, duration, folder, header_secret, http_url, port, several, text
from penstock.settings.variable import setting

USUAL_DOCKER_SOCKET: Final = Path("/var/run/docker.sock")


@dataclass(frozen=True, kw_only=True, repr=False)
class SidecarSettings:
    """Sidecars."""

    infra_sidecar_urls: tuple[str, ...] = setting(
        several(http_url), (), "comma-separated addresses of sidecars, shown by /api/v1/infra/status"
    )
    infra_sidecar_token: Secret | None = setting(
        header_secret, None, "token of the sidecars; a sidecar itself requires it"
    )
    sidecar_http_host: str = setting(text, "0.0.0.0", "address of a sidecar")  # noqa: S104
    sidecar_http_port: int = setting(port, 8090, "its port; 0 takes a free one")
    sidecar_docker_socket: Path = setting(folder, USUAL_DOCKER_SOCKET, "where its containers are listed")
    sidecar_vllm_urls: tuple[str, ...] = setting(
        several(http_url), (), "comma-separated vLLM servers beside it, whose metrics it reads"
    )
    sidecar_whisperx_urls: tuple[str, ...] = setting(
        several(http_url), (), "comma-separated WhisperX servers beside it, whose health it reads"
    )
    sidecar_interval: timedelta = setting(
        duration(100 * MILLISECOND, timedelta(minutes=1)), timedelta(seconds=2), "it measures this often"
    )
