import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corruptions import others
from benchmarks.ranking import main, markdown, rank, recorded
from media.writing import write_clip
from rewards_service.aesthetic import AestheticScorer
from rewards_service.batch import finish, prepare
from rewards_service.scores import Reference, Scores
from rewards_service.temporal import TemporalScorer
from scenes import picture, sound
from scenes.world import FPS, make_scene, scene_seed
from settings import PrismError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for k in range(3):
        scene = make_scene(scene_seed("ranked", 0, k))
        heard = None if k == 2 else sound.render(scene)
        write_clip(folder / f"{k}.mp4", picture.render(scene), FPS, heard, sound.SAMPLE_RATE, audio_codec="flac")
    (folder / "captions.csv").write_text("file,caption\n0.mp4,A bell ringing.\n")
    return folder


def test_videos_are_taken_whole_with_what_their_picture_shows(videos: Path) -> None:
    found = recorded(videos)
    assert [example.reference.clip_id for example in found] == ["0", "1"], "the third has no sound"
    assert found[0].reference.text.startswith("A bell ringing")
    assert found[0].reference.origin == {"events": "picture", "positions": "picture"}
    assert found[0].reference.events
    expected = sound.render(make_scene(scene_seed("ranked", 0, 0)))
    assert np.corrcoef(found[0].sound[0], expected[0, : found[0].sound.shape[1]])[0, 1] > 0.99


def test_the_command_writes_and_prints_both_sets(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(videos), "--scenes", "3", "--out", str(tmp_path / "new" / "ranking.json")])
    rows = json.loads((tmp_path / "new" / "ranking.json").read_text())
    assert {row["set"] for row in rows} == {"3 scenes", "2 videos"}
    told = {(row["scorer"], row["corruption"]): row for row in rows if row["set"] == "3 scenes"}
    silence = told["temporal (embedded)", "silence"]
    assert silence["ranked"] == 1.0
    assert silence["drop"] == pytest.approx(silence["score"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| scorer | fault | 3 scenes: original | drop | right | 2 videos: original |")
    assert len(printed) == 2 + len(told)


def test_numbers_in_the_table_are_the_measured_ones(videos: Path) -> None:
    found = recorded(videos)
    rows = {row.corruption: row for row in rank("a", "aesthetic", AestheticScorer(), found, sound.SAMPLE_RATE)}
    values = AestheticScorer().score(
        np.stack([found[0].sound, found[1].sound])[None], sound.SAMPLE_RATE, [found[0].reference]
    )
    assert rows["silence"].score == pytest.approx(values.values.mean())
    line = markdown([{"set": "2 videos", **vars(rows["silence"])}]).splitlines()[-1]
    assert line == f"| a | silence | {values.values.mean():.3f} | +{values.values.mean():.3f} | 2 of 2 |"


def test_a_wrong_preference_is_bold_and_what_is_left_out_is_said() -> None:
    row = {"set": "x", "scorer": "s", "corruption": "f", "clips": 4, "gated": 2, "unchanged": 1}
    text = markdown([row | {"score": 0.5, "drop": -0.25, "ranked": 0.25}]).splitlines()[-1]
    assert text == "| s | f | 0.500 | −0.250 | **1 of 4**, 2 gated, 1 unchanged |"
    text = markdown([row | {"clips": 0, "score": None, "drop": None, "ranked": None}]).splitlines()[-1]
    assert text == "| s | f | – | – | 2 gated, 1 unchanged |"


def test_a_missing_score_is_an_error(videos: Path) -> None:
    class Deaf(TemporalScorer):
        def score(
            self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
        ) -> Scores:
            batch = prepare(waveforms, sample_rate, references)
            return finish(batch, batch.rms_db, missing={(0, 0): "it did not listen"})

    with pytest.raises(PrismError, match="it did not listen"):
        rank("deaf", "temporal", Deaf(), recorded(videos), sound.SAMPLE_RATE)


def test_another_clip_is_one_that_sounds_otherwise() -> None:
    assert others(["a", "a", "b", "a"]) == [2, 2, 3, 2]
    assert others(["a", "a"]) == [1, 0]
    assert others(["a"]) == [0]
