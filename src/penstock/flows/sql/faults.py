"""Faults as columns of the database hold them."""

from __future__ import annotations

from typing import Final

from penstock.failures import Category
from penstock.flows.kernel.records import Fault

SEPARATOR: Final = "\x1f"  # between the texts of a list; names have no control characters


def fault_text(fault: Fault) -> str:
    """Return a fault as the column for messages holds it: the exception's name, then the message."""
    return f"{fault.type}{SEPARATOR}{fault.message}" if fault.type else fault.message


def fault_of(category: str, text: str) -> Fault:
    """Read a fault from its columns."""
    name, separator, message = text.partition(SEPARATOR)
    return Fault(category=Category(category), message=message if separator else text, type=name if separator else "")
