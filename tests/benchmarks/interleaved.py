"""Times of several functions, taken in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Times = dict[str, list[float]]


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Seconds of each call: ``rounds`` rounds of one call each, after ``warmup`` rounds that do not count.

    ``clock=time.process_time`` counts CPU seconds, of which a busy machine takes none away.
    """
    times: Times = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name, function in functions.items():
            started = clock()
            function()
            if i >= warmup:
                times[name].append(clock() - started)
    return times


def median(times: Times, name: str) -> float:
    """Median seconds of one function."""
    return statistics.median(times[name])


def ratio(times: Times, slow: str, fast: str) -> float:
    """Median over the rounds of time(slow) / time(fast)."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))
