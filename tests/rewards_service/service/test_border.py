"""Requests and scores survive the way into another environment and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewards_service.scores import Reference, Scores
from rewards_service.service.border import pack_request, pack_scores, unpack_request, unpack_scores

REFERENCE = Reference("a", "dög", 1.0, (0.25, 0.5), (-1.0, 0.1), 16.0, {"events": "truth"}, "a plan", "/x.mp4", 3.0)


def test_a_request_arrives_as_it_was_sent() -> None:
    sounds = np.random.default_rng(0).normal(size=(1, 2, 2, 30)).astype(np.float32)
    waveforms, rate, references, detail = unpack_request(
        sounds.tobytes(), pack_request(sounds.shape, 8000, [REFERENCE], True)
    )
    np.testing.assert_array_equal(waveforms, sounds)
    assert (rate, references, detail) == (8000, [REFERENCE], True)


@given(arrays(np.float64, (2, 3), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_scores_arrive_bit_by_bit(values: np.ndarray) -> None:
    sent = Scores(values, {(0, 1): "why"}, [[{"x": 1.5}] * 3] * 2, {1: "mono"})
    got = unpack_scores(pack_scores(sent))
    np.testing.assert_array_equal(got.values, values)
    assert (got.missing, got.measured, got.gated) == (sent.missing, sent.measured, sent.gated)


@pytest.mark.parametrize(
    "answer", [None, "", "[]", "{}", '{"values": [["x"]], "missing": [], "gated": [], "measured": null}', 3.0]
)
def test_nonsense_is_passed_on_for_the_verdict(answer: object) -> None:
    assert unpack_scores(answer) is answer


def test_nan_is_not_a_word_of_json() -> None:
    assert "NaN" not in pack_scores(Scores(np.array([[math.nan, math.inf]])))
