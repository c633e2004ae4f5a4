"""TLS to brokers: the files that the settings name, and errors that name the setting to change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import FieldProblem, SettingsError


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The certificates with which a process connects to a broker.

    ``ca`` holds the authorities that may have issued the broker's certificate (None: those of the system).
    ``certificate`` and ``key`` are what this process shows to a broker that requires a certificate.
    """

    prefix: str  # of the settings, such as REDIS
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context that requires a valid certificate for the host. Raises SettingsError."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except (OSError, ssl.SSLError) as error:
            raise self._wrong("CA_FILE", "certificates in PEM", error) from None
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise self._wrong("CERT_FILE", "a certificate in PEM with the key that belongs to it", error) from None
        return context

    def reason(self, error: BaseException, host: str) -> str | None:
        """Return why TLS to a host has failed, with the setting to change; None for an error of another kind."""
        found = _tls_error_of(error)
        if found is None:
            return None
        if isinstance(found, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {host} is not accepted: {found.verify_message} ({self.prefix}_HOST must be a name "
                f"in it, and its issuer must be in {self.prefix}_CA_FILE)"
            )
        known = found.reason or str(found)
        if "WRONG_VERSION_NUMBER" in known or "RECORD_LAYER_FAILURE" in known:
            return f"{host} does not speak TLS on this port, which {self.prefix}_TLS requires"
        if "CERTIFICATE_REQUIRED" in known or "HANDSHAKE_FAILURE" in known or "UNKNOWN_CA" in known:
            return f"{host} refuses the certificate of this process: see {self.prefix}_CERT_FILE ({known})"
        return f"TLS to {host} has failed: {known}"

    def _wrong(self, setting: str, what: str, error: Exception) -> SettingsError:
        detail = f"cannot be used, it must hold {what}: {getattr(error, 'strerror', None) or error}"
        return SettingsError([FieldProblem(field=f"{self.prefix}_{setting}", detail=detail)])


def _tls_error_of(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS that caused an error, as drivers wrap it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLError):
            return error
        nested = next((one for one in error.args if isinstance(one, ssl.SSLError)), None)
        if nested is not None:
            return nested
        error = error.__cause__ or error.__context__
    return None
