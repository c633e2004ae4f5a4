"""The topics of this room's wake-ups."""

from __future__ import annotations

from typing import Final

SUBMITTED: Final = "callback-subjects"  # a tenant has its first endpoint, or a new job has a callback; no keys
ENDPOINTS: Final = "callback-endpoints"  # deliveries were added; the keys are the endpoints' ids in hexadecimal digits
