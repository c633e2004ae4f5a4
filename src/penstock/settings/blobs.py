"""Settings of files: uploads, and files fetched from URLs."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.settings.kinds import KIBIBYTE, MEBIBYTE, integer, network, several
from penstock.settings.variable import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class BlobSettings:
    """Files."""

    penstock_max_blob_bytes: int = setting(
        integer(KIBIBYTE, 2**32), 256 * MEBIBYTE, "largest uploaded file, and largest recording fetched from a URL"
    )
    penstock_fetch_networks: tuple[str, ...] = setting(
        several(network),
        (),
        "private networks that URLs in jobs, and models that tenants register, may lead to, such as 10.2.0.0/16; "
        "public addresses are always allowed",
    )
