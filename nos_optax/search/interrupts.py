"""Ctrl-C and SIGTERM: none is lost, and two at once are one.

Python raises what a signal's handler raises wherever the main thread is. In a callback of the
garbage collector, such as JAX has, it is printed and forgotten. So a signal is remembered too, and
the search looks at that after each population.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from types import FrameType
from typing import Any

AT_ONCE = 1.0  # seconds within which another signal is the same wish


class Interrupts:
    """A signal's handler that remembers that it was called."""

    def __init__(self):
        self._last: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but not into the handling of one that was just raised."""
        now = time.monotonic()
        if self._last is None or now - self._last > AT_ONCE:
            self._last = now
            raise KeyboardInterrupt

    def look(self) -> None:
        """Raise KeyboardInterrupt if there was a signal."""
        if self._last is not None:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Let no signal interrupt what is said about one."""
        self._last = float("inf")

    def after(self, callback: Callable[[Sequence[Any]], None]) -> Callable[[Sequence[Any]], None]:
        """Return a callback that looks for a signal after what it does."""

        def both(values: Sequence[Any]) -> None:
            callback(values)
            self.look()

        return both


@contextlib.contextmanager
def interruptible(*signals: signal.Signals) -> Generator[Interrupts]:
    """Handle signals by `Interrupts` inside, as before afterwards; in the main thread only."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, interrupts)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            if handler is not None:  # it was not set from Python
                signal.signal(number, handler)


@contextlib.contextmanager
def handlers_kept() -> Generator[None]:
    """Set the handlers of signals again at the end: Ray replaces them by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)
