"""All environment variables: documented, in one group per room, and checked together at start.

A process builds one frozen ``Settings`` at its entry with ``load_settings`` and passes parts of it down: a function
that needs only the settings of one room takes that room's group, such as ``JobSettings``. Nothing reads the environment
at import. The name of a variable is the upper-case name of its field; an empty value means "not set". Variables may
also be in a file ``.env`` in the working directory; the environment takes precedence.
"""

from penstock.settings.settings import Settings, load_settings, misspelt
from penstock.settings.source import environment

__all__ = ["Settings", "environment", "load_settings", "misspelt"]
