"""The constants under the name that older wrappers import."""

from aiges.core.types import *  # noqa: F403  (the module is a second name of the other one)
