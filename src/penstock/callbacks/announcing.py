"""The topics of this room's wake-ups."""

from __future__ import annotations

from typing import Final

SUBMITTED: Final = "callback-subjects"  # a tenant has got its first endpoint, or a job with a callback; no keys
ENDPOINTS: Final = "callback-endpoints"  # deliveries were added; the keys are the endpoints' ids in hexadecimal digits
