"""The module that the original's C++ loader provides; here a second name of ``aiges.dto``.

Wrappers try to import it first. It exists, because the alternative that several published ones state lacks names that
they use.
"""

from aiges.dto import *  # noqa: F403
