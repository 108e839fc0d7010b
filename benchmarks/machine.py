"""What a measurement ran on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """CPU, cores, memory, versions and commit, as plain JSON values."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return found


def sentence(found: dict[str, Any]) -> str:
    """The description in one line."""
    memory = f", {found['memory_gib']:.0f} GiB" if found.get("memory_gib") else ""
    gpu = f"; {found['gpu']}" if found.get("gpu") else ""
    commit = "" if found["commit"] == "unknown" else f"; commit {found['commit']}"
    return (
        f"{found['cpu']}, {found['cores']} cores{memory}{gpu}; {found['system']}, Python {found['python']}, torch "
        f"{found['torch']}, {found['threads']} torch thread(s){commit}"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    name = next((value.strip() for key, value in facts.items() if key.strip() == "model name"), platform.machine())
    flags = next((value.split() for key, value in facts.items() if key.strip() == "flags"), [])
    return name + (" with AVX-512" if "avx512f" in flags else " with AVX2" if "avx2" in flags else "")


def _memory() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return None


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, check=True)
        status = ["git", "-C", root, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.decode().strip() + (" (changed)" if changed else "")
