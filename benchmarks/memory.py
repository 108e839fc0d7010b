"""Largest resident memory of a process, from a chosen moment on."""

import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mib() -> float:
    """Resident now; NaN where the system does not say."""
    return _status("VmRSS")


def peak_mib() -> float:
    """Largest resident since the process or the last `forget_peak` began.

    Linux keeps it per address space; `ru_maxrss` would be handed down from the parent through exec.
    """
    found = _status("VmHWM")
    if found == found:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> bool:
    """Start the peak again at what is resident now; False where the system cannot."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(field: str) -> float:
    if not STATUS.exists():
        return float("nan")
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
    return float(lines[field].split()[0]) / 2**10 if field in lines else float("nan")
