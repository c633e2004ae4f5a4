"""The executors of a worker, by queue."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from penstock.jobs.slots import Slots
from penstock.work.executor import Executor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """An executor and the queues it serves: every pair of these task types and model profiles."""

    executor: Executor
    task_types: tuple[str, ...]
    model_profiles: tuple[str, ...]
    tenants: tuple[str, ...] = ()  # whose jobs it runs; none: all that the worker serves
    limit: int | None = None  # jobs at a time; None: the worker's limit
    slots: Slots | None = None  # of jobs that mostly wait; None: those of the worker, which all its other jobs share

    def __post_init__(self) -> None:
        if not self.task_types or not self.model_profiles:
            raise ValueError("an executor needs at least one task type and one model profile")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; an executor needs to run at least 1 job at a time")


class Executors:
    """The executors of one worker, by (task type, model profile).

    They may change while the worker runs, on its event loop: an added offer gets jobs at once; a removed one gets no
    more, and its running jobs may finish.
    """

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    def add(
        self,
        executor: Executor,
        *,
        task_types: Collection[str],
        model_profiles: Collection[str],
        tenants: Collection[str] = (),
        limit: int | None = None,
    ) -> Offer:
        """Serve every pair of these types and profiles, up to ``limit`` jobs at a time; return an offer to ``remove``.

        Raises ValueError for a pair that is served already.
        """
        offer = Offer(
            executor=executor,
            task_types=tuple(task_types),
            model_profiles=tuple(model_profiles),
            tenants=tuple(tenants),
            limit=limit,
        )
        self.serve(offer)
        return offer

    def serve(self, offer: Offer) -> None:
        """Add an offer. Raises ValueError for a queue that is served already."""
        for task_type in offer.task_types:
            for model_profile in offer.model_profiles:
                if self.find(task_type, model_profile) is not None:
                    raise ValueError(f"({task_type}, {model_profile}) has an executor already")
        self.offers.append(offer)
        self._notify()

    def remove(self, offer: Offer) -> None:
        """Stop serving these queues; nothing happens if they were removed already."""
        if offer in self.offers:
            self.offers.remove(offer)
            self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def find(self, task_type: str, model_profile: str) -> Executor | None:
        """Return the executor of a queue, or None."""
        for offer in self.offers:
            if task_type in offer.task_types and model_profile in offer.model_profiles:
                return offer.executor
        return None
