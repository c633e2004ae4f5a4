"""``penstock sidecar``: the process that reports the state of a GPU host."""

from __future__ import annotations

from penstock.cli import roles


def sidecar() -> None:
    """Report this host's GPUs, containers, vLLM and WhisperX; needs INFRA_SIDECAR_TOKEN, changes nothing."""
    settings = roles.begin("sidecar")
    import uvloop

    from penstock.sidecar import server

    with roles.crashes_logged():
        uvloop.run(server.run(settings))
