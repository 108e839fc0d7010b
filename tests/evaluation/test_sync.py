"""DeSync is what av-benchmark's rule makes of the model's logits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.heldout import evaluate
from evaluation.sync import desync, watch
from rewards_service import temporal
from rewards_service.released.synchformer import SynchformerScorer
from rewards_service.temporal import TemporalScorer
from settings import PrismError
from tests.rewards_service.released.clips import RATE, Film, make_film, small_synchformer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> SynchformerScorer:
    path = tmp_path_factory.mktemp("weights") / "synchformer_state_dict.pth"
    torch.save(small_synchformer().state_dict(), path)
    return SynchformerScorer(path)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    folder = tmp_path_factory.mktemp("films")
    return [make_film(folder / f"film{k}.mp4", k) for k in range(3)]


def test_it_is_the_mean_over_clips_and_windows(scorer: SynchformerScorer, films: list[Film]) -> None:
    sounds, references = np.stack([f.sound for f in films]), [f.reference for f in films]
    found = desync(scorer, sounds, RATE, references)
    alone = [scorer.windows(torch.from_numpy(s.mean(0))[None], [r], torch.ones(1, dtype=torch.bool))
             for s, r in zip(sounds, references, strict=True)]  # fmt: skip
    first, last = (torch.cat([getattr(w, name) for w in alone]) for name in ("first", "last"))
    assert found.estimate.mean == pytest.approx(temporal.desync(first, last))
    for k in range(3):
        assert found.clips[k] == pytest.approx(temporal.desync(first[k], last[k]))
    assert found.estimate.n == 3
    assert not found.missing


def test_silence_is_measured_and_what_has_no_windows_is_not(scorer: SynchformerScorer, films: list[Film]) -> None:
    sounds = np.stack([f.sound for f in [*films, films[0], films[0]]])
    sounds[0] = 0
    sounds[1, 0, 5] = np.nan
    references = [f.reference for f in [*films, films[0], films[0]]]
    references[2] = replace(references[2], uri="/none.mp4")
    references[3] = replace(references[3], clip_id="short", seconds=4.0)
    references[4] = replace(references[4], clip_id="shorter", seconds=1.0)
    found = desync(scorer, sounds, RATE, references)
    assert np.isfinite(found.clips).tolist() == [True, False, False, False, False]
    assert found.missing.keys() == {"film1", "film2", "short", "shorter"}
    assert "not finite" in found.missing["film1"]
    assert "no such file" in found.missing["film2"]
    assert found.missing["short"] == "it has 11 of the 14 segments of a window"
    assert found.estimate.n == 1


def test_held_out_evaluation_can_watch_it(scorer: SynchformerScorer, films: list[Film]) -> None:
    def generate(places: Sequence[int]) -> np.ndarray:
        return np.stack([films[k].sound for k in places])

    watching = watch(scorer, RATE, lambda places: [films[k].reference for k in places])
    references = [f.reference for f in films]
    found = evaluate(generate, range(3), references, {"temporal": TemporalScorer()}, RATE, batch=2, watch=watching)
    np.testing.assert_array_equal(found.watched["desync"], desync(scorer, generate(range(3)), RATE, references).clips)


def test_the_released_rewards_view_is_refused(scorer: SynchformerScorer, films: list[Film]) -> None:
    with pytest.raises(PrismError, match="without official"):
        desync(replace(scorer, official=True), films[0].sound[None], RATE, [films[0].reference])
