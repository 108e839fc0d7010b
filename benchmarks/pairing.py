"""Does a generated soundtrack follow its own picture? Matched against shuffled pairs, by the temporal scorer.

Run: python -m benchmarks.pairing FOLDER [--model RUN] [--seeds N]
Every soundtrack is scored against the impacts seen in its own video and in each of the others, as `prism score` does.
"""

import argparse
from pathlib import Path

import numpy as np

from cot_service.analysis import analyse
from foundation.build import load_foundation
from media.audio import fit_length
from media.manifest import SUFFIXES
from pipelines.generate import soundtrack, windows
from pipelines.recipe import find_model
from pipelines.segments import read_video
from rewards_service.scores import Reference
from rewards_service.temporal import TemporalScorer


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
    clips = [read_video(video) for video in videos]
    seen = [analyse(clip) for clip in clips]
    table = np.zeros((options.seeds, len(videos), len(videos)))  # seed, picture, soundtrack
    for seed in range(options.seeds):
        for made, (video, clip) in enumerate(zip(videos, clips, strict=True)):
            found = windows(foundation, video, clip, seen[made], None)
            sound = soundtrack(foundation, found, round(clip.seconds * rate), seed, 1.0, 16)
            for shown, (other, analysis) in enumerate(zip(clips, seen, strict=True)):
                fitted = fit_length(sound, round(other.seconds * rate))
                reference = Reference(
                    videos[shown].stem, "", other.seconds, analysis.events, analysis.positions, analysis.fps
                )
                table[seed, shown, made] = scorer.score(fitted[None, None], rate, [reference]).values[0, 0]
    mean = table.mean(0)
    off = ~np.eye(len(videos), dtype=bool)
    print(f"{'picture':36s} own sound  others' sound")
    for index, video in enumerate(videos):
        print(f"{video.name:36s} {mean[index, index]:9.3f}  {mean[index][off[index]].mean():13.3f}")
    own, others = mean[~off].mean(), mean[off].mean()
    print(f"{'mean':36s} {own:9.3f}  {others:13.3f}   difference {own - others:+.3f}")


if __name__ == "__main__":
    main()
