"""One delivery at a time on one way, in a thread that can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from acquisition.message import Message
from acquisition.ways import Way
from drivers.clock import Clock, Deadline

MOST_LOST = 3
"""Deliveries that may hang at once on a way before no more are tried on it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a delivery: an error, or a note about one that went well."""

    message: Message
    error: str | None = None
    note: str | None = None


class _Delivery:
    """One delivery and its thread."""

    def __init__(self, name: str, way: Way, message: Message, timeout: float, wake: Callable[[], None]) -> None:
        self._way, self.message, self._timeout, self._wake = way, message, timeout, wake
        self.result: Result | None = None
        self.thread = threading.Thread(target=self._run, name=f"alert on {name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = Result(self.message, note=self._way.deliver(self.message, self._timeout))
        except Exception as error:  # noqa: BLE001  whatever a way raises, the message was not delivered
            self.result = Result(self.message, error=str(error) or type(error).__name__)
        finally:
            self._wake()


class Courier:
    """Delivers on one way.

    Parameters
    ----------
    name : str
        Of the way.
    way : Way
    deadline : float, s
        After which a delivery counts as failed, whatever hangs; its thread is then left to itself.
    clock : Clock
    wake : callable
        Called when a delivery has ended.
    """

    def __init__(self, name: str, way: Way, deadline: float, clock: Clock, wake: Callable[[], None]) -> None:
        self._name = name
        self._way = way
        self._seconds = deadline
        self._clock = clock
        self._wake = wake
        self._present: _Delivery | None = None
        self._until: Deadline | None = None
        self._lost: list[_Delivery] = []

    @property
    def ready(self) -> bool:
        """Whether a message can be sent now."""
        self._lost = [delivery for delivery in self._lost if delivery.thread.is_alive()]
        return self._present is None and len(self._lost) < MOST_LOST

    @property
    def busy(self) -> bool:
        """Whether a message is on its way."""
        return self._present is not None

    def send(self, message: Message) -> None:
        """Begin to deliver a message; :meth:`result` says how it went."""
        self._until = Deadline.after(self._clock, self._seconds)
        self._present = _Delivery(self._name, self._way, message, self._seconds, self._wake)

    def result(self) -> Result | None:
        """Return what became of the message that was sent, once; None while it is on its way."""
        delivery, until = self._present, self._until
        if delivery is None or until is None:
            return None
        if delivery.result is not None:
            self._present = None
            return delivery.result
        if not until.expired:
            return None
        self._present = None
        self._lost.append(delivery)
        return Result(delivery.message, error=f"not delivered within {self._seconds:g} s")
