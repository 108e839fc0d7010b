"""Does a generated soundtrack follow its own picture? Matched against shuffled pairs, by the temporal scorer.

Run: python -m benchmarks.pairing FOLDER [--model RUN] [--seeds N]
Each video's soundtrack, cut into the model's clip length, is scored against the events seen in its own picture and in
those of every other video.
"""

import argparse
from pathlib import Path

import numpy as np

from foundation.build import Foundation, load_foundation
from media.manifest import SUFFIXES
from pipelines.generate import soundtrack, windows
from pipelines.recipe import find_model
from pipelines.segments import Segment, read_video
from rewards_service.temporal import TemporalScorer


def pieces(foundation: Foundation, video: Path, seed: int) -> tuple[list[Segment], np.ndarray]:
    """Windows of a video and the sound (windows, 2, S) of each, cut from one finished soundtrack."""
    clip = read_video(video)
    found = windows(foundation, video, clip, None)
    rate = foundation.codec.sample_rate
    sound = soundtrack(foundation, found, round(clip.seconds * rate), seed, 1.0, 16)
    length = round(found[0].reference.seconds * rate)
    starts = [min(round(s.start * rate), sound.shape[1] - length) for s in found]
    return found, np.stack([sound[:, a : a + length] for a in starts])


def main() -> None:
    """Print the score of matched and of shuffled pairs per video and on average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    foundation = load_foundation(find_model(options.model))
    videos = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    scorer, rate = TemporalScorer(), foundation.codec.sample_rate
    matched: dict[str, list[float]] = {video.name: [] for video in videos}
    shuffled: dict[str, list[float]] = {video.name: [] for video in videos}
    for seed in range(options.seeds):
        made = {video.name: pieces(foundation, video, seed) for video in videos}
        for name, (found, sounds) in made.items():
            for other, (windows_of_other, _) in made.items():
                references = [s.reference for s in windows_of_other if s.reference.events]
                for sound, segment in zip(sounds, found, strict=True):
                    judged = [segment.reference] if other == name else references
                    if not segment.reference.events or not judged:
                        continue
                    grid = np.broadcast_to(sound, (len(judged), 1, *sound.shape))
                    values = scorer.score(grid, rate, judged).values
                    (matched if other == name else shuffled)[name].append(float(values.mean()))
    print(f"{'video':36s} matched  shuffled")
    for name in matched:
        if matched[name]:
            print(f"{name:36s} {np.mean(matched[name]):7.3f}  {np.mean(shuffled[name]):8.3f}")
    means = [np.mean([np.mean(v) for v in table.values() if v]) for table in (matched, shuffled)]
    print(f"{'mean over videos':36s} {means[0]:7.3f}  {means[1]:8.3f}   difference {means[0] - means[1]:+.3f}")


if __name__ == "__main__":
    main()
