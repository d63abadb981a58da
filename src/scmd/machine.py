"""Settings of the machine that make training faster and change no result."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Let glibc's allocator keep freed memory; elsewhere nothing happens.

    By default it maps every large tensor anew and gives it back to the system at once; on virtual
    machines, where page faults are dear, that can take as long as the computation.

    Returns:
        Whether the allocator took the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    taken = [mallopt(option, value) == 1 for option, value in settings]
    return all(taken)
