"""Find the secret of the installation: in ``PENSTOCK_SECRET_KEY``, else in a file that is made at first use."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.errors import CannotStart
from penstock.masking import Secret
from penstock.telemetry import logs

log = logs.get(__name__)

FILE_NAME: Final = "secret.key"
_MOST_BYTES: Final = 1000


class SecretSource:
    """Reads the secrets when they are first needed, and again on ``reload``.

    The file has the current secret on its first line and, during a rotation, the previous one on the second.
    """

    def __init__(self, stated: Secret | None, folder: Path) -> None:
        self._stated = stated
        self.path = folder / FILE_NAME
        self._secrets: Secrets | None = None

    @property
    def from_environment(self) -> bool:
        return self._stated is not None

    def get(self) -> Secrets:
        """Return the secrets; a missing file is created. Raises CannotStart."""
        if self._secrets is None:
            self._secrets = self._read()
        return self._secrets

    def reload(self) -> Secrets:
        """Read the secrets again, because another host may have rotated them.

        Those that were read before stay valid while the file cannot be read, and a lost file is not replaced: its
        successor would not fit the database. Raises CannotStart.
        """
        if self._secrets is None or self.from_environment:
            return self.get()
        try:
            self._secrets = _parse(self._read_file().splitlines(), str(self.path))
        except (OSError, CannotStart) as error:
            log.error("secret_file_unreadable", path=str(self.path), reason=str(error))
        return self._secrets

    def unseal(self, sealed: bytes, *, secret_id: str, place: str) -> bytes:
        """Return what the secret of this id has encrypted for a place. Raises CannotUnseal and CannotStart."""
        secret = self.get().get(secret_id) or self.reload().get(secret_id)
        if secret is None:
            raise CannotUnseal("this host does not have the secret that encrypted it: set PENSTOCK_SECRET_KEY")
        return secret.unseal(sealed, place=place)

    def write(self, secrets: Secrets) -> None:
        """Replace the file. Raises CannotStart."""
        lines = [secret.text() for secret in (secrets.current, secrets.previous) if secret is not None]
        self._create(lines, replace=True)
        self._secrets = secrets

    def _read(self) -> Secrets:
        if self._stated is not None:
            return _parse(self._stated.reveal().split(","), "PENSTOCK_SECRET_KEY")
        try:
            text = self._read_file()
        except (FileNotFoundError, NotADirectoryError):
            self._create([InstanceSecret.generate().text()], replace=False)
            text = self._read_file()
        return _parse(text.splitlines(), str(self.path))

    def _read_file(self) -> str:
        try:
            with self.path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise CannotStart(f"{self.path} can be read by other users; run: chmod 600 {self.path}")
                return file.read(_MOST_BYTES).decode("ascii", "replace")
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise CannotStart(f"{self.path} cannot be read: {error.strerror}") from None

    def _create(self, lines: list[str], *, replace: bool) -> None:
        """Write the file as a whole, readable by its owner only; without ``replace`` an existing one is kept."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=self.path.parent, prefix=f".{FILE_NAME}.") as file:  # with mode 0600
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
                if replace:
                    self._link_over(file.name)
                else:
                    with suppress(FileExistsError):  # another process has just created it
                        os.link(file.name, self.path)
        except OSError as error:
            raise CannotStart(
                f"the secret of this installation cannot be written to {self.path} ({error.strerror}): set "
                "PENSTOCK_SECRET_KEY, or a PENSTOCK_DATA_DIR that can be written"
            ) from None

    def _link_over(self, new: str) -> None:
        """Replace the file with another one, atomically."""
        link = f"{new}.link"
        os.link(new, link)
        Path(link).replace(self.path)


def _parse(texts: list[str], place: str) -> Secrets:
    try:
        return Secrets.parse([text for text in texts if text.strip()])
    except ValueError as error:
        raise CannotStart(f"{place}: {error}") from None
