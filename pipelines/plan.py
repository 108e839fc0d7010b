"""`prism plan`: the four texts about a video."""

from pathlib import Path
from typing import Any

from cot_service.analysis import analyse
from cot_service.analysis_planner import plan_from
from pipelines.segments import read_video


def plan(video: Path, caption: str | None = None) -> dict[str, Any]:
    """The plan of a whole video with the events and positions it rests on. Raises MediaError."""
    clip = read_video(video)
    seen = analyse(clip)
    return {
        **plan_from(seen, caption).as_dict(),
        "events": [round(time, 3) for time in seen.events],
        "positions": [round(float(x), 3) for x in seen.positions],
        "positions_fps": seen.fps,
        "confidence": round(seen.confidence, 3),
        "method": seen.method,
    }
