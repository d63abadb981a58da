"""How often fuzzing tries, and how long a case may take."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, settings
from soaking import SOAK


def settings_for(count: int) -> settings:
    """Of so many cases: the same ones in each short run, others in each long one.

    A failure is not made smaller, which would try a thousand more.
    """
    return settings(
        max_examples=count,
        derandomize=not SOAK,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Fails where a case takes more of the processor: other people's work does not count."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
