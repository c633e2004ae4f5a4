"""Settings of sidecars, and of the gateway that shows their reports."""

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
    sidecar_http_port: int = setting(port, 8090, "port of a sidecar; 0 chooses a free one")
    sidecar_docker_socket: Path = setting(folder, USUAL_DOCKER_SOCKET, "where the sidecar lists containers")
    sidecar_vllm_urls: tuple[str, ...] = setting(
        several(http_url), (), "comma-separated vLLM servers on its host, whose metrics the sidecar reads"
    )
    sidecar_whisperx_urls: tuple[str, ...] = setting(
        several(http_url), (), "comma-separated WhisperX servers on its host, whose health the sidecar reads"
    )
    sidecar_interval: timedelta = setting(
        duration(100 * MILLISECOND, timedelta(minutes=1)),
        timedelta(seconds=2),
        "interval between measurements of the sidecar",
    )
