"""A budget in seconds, for work that takes what the machine can do in it and says how far it came."""

import math
import time


class Budget:
    """Seconds on the clock, counted from the making of the budget; None is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self._start = math.inf if seconds is None else seconds, time.perf_counter()

    def left(self) -> float:
        """Return the seconds that are left, below zero once they are over."""
        return self.seconds - (time.perf_counter() - self._start)

    def spent(self) -> float:
        """Return the share that is gone, from 0 (always, without a limit) to 1 (it is over)."""
        left = self.left()
        return 1.0 if left <= 0 else 1 - left / self.seconds if left < math.inf else 0.0
