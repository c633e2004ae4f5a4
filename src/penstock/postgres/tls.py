"""Why TLS to PostgreSQL has failed, with the part of DATABASE_URL to change."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def reason_of(error: BaseException, url: str) -> str | None:
    """Return a sentence for an error of TLS; None for any other error of a connection to ``url``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of the database is not accepted: {error.verify_message.rstrip('.')}. The host in "
            "DATABASE_URL must be a name in it, and its issuer must be in the file sslrootcert."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS to the database has failed: {error.reason or error}. See sslmode and sslcert in DATABASE_URL."
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "The database does not speak TLS, which sslmode in DATABASE_URL requires."
    if isinstance(error, FileNotFoundError | PermissionError):
        for name, value in parse_qsl(urlsplit(url).query):
            if name in _FILES and not Path(value).expanduser().is_file():
                return f"DATABASE_URL names a file as {name} that cannot be read."
    return None
