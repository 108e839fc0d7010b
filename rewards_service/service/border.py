"""What crosses into another environment and back: bytes with dtype and shape, and JSON.

An array or an object of ours would be unpickled there by another numpy, which ends the worker.
"""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from rewards_service.scores import Reference, Scores


def pack_request(shape: tuple[int, ...], sample_rate: int, references: list[Reference], detail: bool) -> str:
    """Everything about a request but the float32 samples themselves, which travel as their bytes."""
    rows = [asdict(reference) for reference in references]
    return json.dumps({"shape": shape, "sample_rate": sample_rate, "references": rows, "detail": detail})


def unpack_request(samples: bytes, request: str) -> tuple[np.ndarray, int, list[Reference], bool]:
    """Arguments of a scorer's `score`."""
    told = json.loads(request)
    waveforms = np.frombuffer(samples, np.float32).reshape(told["shape"])
    references = [
        Reference(**{**row, "events": tuple(row["events"]), "positions": tuple(row["positions"])})
        for row in told["references"]
    ]
    return waveforms, told["sample_rate"], references, told["detail"]


def pack_scores(scores: Scores) -> str:
    """Scores as JSON; null is NaN. Raises TypeError when what was measured is not plain."""
    values = np.asarray(scores.values, np.float64)
    return json.dumps(
        {
            "values": [[_plain(v) for v in row] for row in values.tolist()],
            "missing": [[g, n, reason] for (g, n), reason in scores.missing.items()],
            "measured": scores.measured,
            "gated": [[g, reason] for g, reason in scores.gated.items()],
        }
    )


def unpack_scores(answer: Any) -> Any:
    """What `pack_scores` made; anything else as it came, for `rewards_service.service.verdict` to refuse."""
    if not isinstance(answer, str):
        return answer
    try:
        told = json.loads(answer)
        values = np.array([[_number(v) for v in row] for row in told["values"]], np.float64)
        missing = {(int(g), int(n)): str(reason) for g, n, reason in told["missing"]}
        gated = {int(g): str(reason) for g, reason in told["gated"]}
        return Scores(values, missing, told["measured"], gated)
    except (ValueError, KeyError, TypeError):
        return answer


def _plain(value: float) -> float | str | None:
    """JSON has no infinities."""
    return None if math.isnan(value) else str(value) if math.isinf(value) else value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
