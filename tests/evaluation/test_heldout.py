from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from evaluation.heldout import evaluate, paired
from rewards_service.scores import Reference, Scores
from settings import PrismError


@dataclass
class Loudness:
    """Scores the mean sample value; clips named in `broken` are missing."""

    name: str
    broken: tuple[str, ...] = ()

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        assert waveforms.shape[1:3] == (1, 2)
        assert sample_rate == 16_000
        values = waveforms.mean(axis=(2, 3)).astype(np.float64)
        missing = {(i, 0): "died" for i, r in enumerate(references) if r.clip_id in self.broken}
        for place in missing:
            values[place] = np.nan
        return Scores(values, missing, [[{"level": float(v[0])}] for v in values] if detail else None)


REFERENCES = [Reference(f"c{i}", "", 2.0, (), (), 16.0) for i in range(5)]
PROMPTS = [0.0, 0.1, 0.2, 0.3, 0.4]


def generate(prompts: Sequence[float]) -> np.ndarray:
    return np.stack([np.full((2, 8), p, np.float32) for p in prompts])


def test_means_and_errors_over_scenes() -> None:
    result = evaluate(generate, PROMPTS, REFERENCES, {"a": Loudness("a"), "b": Loudness("b")}, 16_000, batch=2)
    assert result.scenes["a"] == pytest.approx(PROMPTS)
    assert result.total == pytest.approx(PROMPTS)
    assert result.summary()["total"]["mean"] == pytest.approx(0.2)
    assert result.summary()["a"]["stderr"] == pytest.approx(np.std(PROMPTS, ddof=1) / np.sqrt(5), rel=1e-5)
    assert result.means()["b"] == pytest.approx(0.2)


def test_batching_changes_nothing_but_memory() -> None:
    scorers = {"a": Loudness("a", broken=("c4",))}
    one = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000, batch=1, detail=True, keep_waveforms=True)
    all_at_once = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000, batch=99, detail=True, keep_waveforms=True)
    np.testing.assert_array_equal(one.scenes["a"], all_at_once.scenes["a"])
    assert one.missing == all_at_once.missing == {"a": {"c4": "died"}}
    assert [m["level"] for m in one.measured["a"]][:4] == pytest.approx(PROMPTS[:4])
    assert isinstance(one.waveforms, np.ndarray)
    assert one.waveforms.shape == (5, 2, 8)


def test_a_missing_score_is_left_out_never_a_number() -> None:
    scorers = {"a": Loudness("a", broken=("c0",)), "b": Loudness("b")}
    result = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000)
    assert np.isnan(result.total[0])
    assert result.summary()["a"] == {"mean": pytest.approx(0.25), "stderr": pytest.approx(0.0645, abs=1e-3), "n": 4}
    assert result.summary()["total"]["n"] == 4
    nothing = evaluate(generate, PROMPTS[:1], REFERENCES[:1], scorers, 16_000)
    assert nothing.means() == {"a": None, "b": 0.0, "total": None}


@dataclass
class Centred:
    """A real rule: it says nothing about clips named in `mono`, and scores the others by their level."""

    mono: tuple[str, ...] = ()

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        values = waveforms.mean(axis=(2, 3)).astype(np.float64) * 2
        return Scores(values, gated={g: "the clip is mono" for g, r in enumerate(references) if r.clip_id in self.mono})


def test_a_gated_score_is_neither_missing_nor_a_number() -> None:
    scorers = {"a": Loudness("a", broken=("c1",)), "b": Centred(mono=("c0", "c1", "c3"))}
    result = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000, batch=2)
    np.testing.assert_allclose(result.scenes["b"], [np.nan, np.nan, 0.4, np.nan, 0.8], rtol=1e-6)
    np.testing.assert_allclose(result.total, [0.0, np.nan, 0.3, 0.3, 0.6], rtol=1e-6)
    assert result.missing == {"a": {"c1": "died"}}
    assert result.gated == {"b": dict.fromkeys(("c0", "c1", "c3"), "the clip is mono")}
    assert result.left_out() == {"b": {"clips": 3, "reason": "the clip is mono"}}
    assert result.summary()["b"]["n"] == 2
    alone = evaluate(generate, PROMPTS[:1], REFERENCES[:1], {"b": scorers["b"]}, 16_000)
    assert alone.means() == {"b": None, "total": None}
    assert paired(result, result)["total"].n == 4


def test_a_judge_gives_the_measure_of_its_dimension() -> None:
    def watch(waveforms: np.ndarray, prompts: Sequence[float]) -> dict[str, np.ndarray]:
        return {"b": np.array(prompts)}

    judges = {"a": Loudness("judge", broken=("c2",)), "c": Centred(mono=("c4",))}
    result = evaluate(generate, PROMPTS, REFERENCES, {"a": Loudness("a")}, 16_000, batch=2, watch=watch, judges=judges)
    assert set(result.scenes) == {"a"}
    np.testing.assert_allclose(result.watched["a"], [0.0, 0.1, np.nan, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(result.watched["b"], PROMPTS)
    np.testing.assert_allclose(result.watched["c"], [0.0, 0.2, 0.4, 0.6, np.nan], rtol=1e-6)
    assert result.silent == {"a": {"c2": "died"}, "c": {"c4": "the clip is mono"}}
    assert result.judges == {"a": "Loudness", "c": "Centred"}
    assert np.isfinite(result.total).all(), "what a judge says is no part of the total"


def test_paired_gain_removes_what_scenes_share() -> None:
    scorers = {"a": Loudness("a")}
    before = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000)
    after = evaluate(lambda p: generate(p) + 0.1, PROMPTS, REFERENCES, scorers, 16_000)
    gain = paired(before, after)["total"]
    assert gain.mean == pytest.approx(0.1)
    assert gain.stderr < 1e-6 < before.summary()["total"]["stderr"]  # type: ignore[operator]


def test_wrong_input_is_refused() -> None:
    scorers = {"a": Loudness("a")}
    with pytest.raises(PrismError, match="one reference for each"):
        evaluate(generate, PROMPTS, REFERENCES[:2], scorers, 16_000)
    with pytest.raises(PrismError, match="one reference for each"):
        evaluate(generate, [], [], scorers, 16_000)
    with pytest.raises(PrismError, match="must return"):
        evaluate(lambda p: generate(p)[:, :1], PROMPTS, REFERENCES, scorers, 16_000)
    with pytest.raises(PrismError, match="no scorer"):
        evaluate(generate, PROMPTS, REFERENCES, {}, 16_000)
    result = evaluate(generate, PROMPTS, REFERENCES, scorers, 16_000)
    other = evaluate(generate, PROMPTS[:3], REFERENCES[:3], scorers, 16_000)
    with pytest.raises(PrismError, match="same scenes"):
        paired(result, other)
