"""Flows: durable functions over jobs.

::

    from penstock.flows import flow, run

    @flow(name="podcast", version="1")
    async def podcast(topic: str) -> str:
        script = await run.call("writer", {"topic": topic})
        return await run.call("speaker", {"text": script})
"""

from penstock.flows.kernel import run
from penstock.flows.kernel.declaration import flow

__all__ = ["flow", "run"]
