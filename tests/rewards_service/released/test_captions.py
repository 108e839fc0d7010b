"""Captions for audio-text models: what is taken out, what stays, where they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards_service.released.captions import chosen, clean, fit
from rewards_service.scores import Reference


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("A dog barks!", "A dog barks."),
        ("Bang!!! Then silence.", "Bang. Then silence."),
        ("Is it rain?! Yes", "Is it rain? Yes"),
        ("**Semantic:** a bell rings", "a bell rings"),
        ("Semantic: a bell. Temporal: at 2 s. Aesthetic: dry. Spatial: left.", "a bell. at 2 s. dry. left."),
        ("## Semantic CoT: a `glass` breaks", "a glass breaks"),
        ("- a car\n- a horn\n1. rain", "a car a horn rain"),
        ("see [the bell](http://a.b/c) ring", "see the bell ring"),
        ("<|endoftext|>a hum</s><mask>", "a hum"),
        ("  a \t hum\u200b\x00 of  a fridge \n", "a hum of a fridge"),
        ("a _soft_ under_score", "a soft under_score"),
        ("music in C# at 3.5 kHz, 5 * 2", "music in C# at 3.5 kHz, 5 2"),
        ("!", ""),
        ("a spatial reverb, a temporal pattern", "a spatial reverb, a temporal pattern"),
    ],
)
def test_captions_are_plain_sentences(written: str, read: str) -> None:
    assert clean(written) == read


@given(st.text(alphabet=st.sampled_from(list("ab!?.*_<|>/s :#-`[]()\n\u200b")) | st.characters(), max_size=60))
def test_cleaning_is_stable_and_leaves_nothing_a_tokenizer_misreads(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert "!" not in cleaned
    assert "<|" not in cleaned or "|>" not in cleaned
    assert cleaned == " ".join(cleaned.split())


@given(st.text(alphabet="ab ", max_size=80), st.integers(1, 40))
def test_the_longest_beginning_that_fits_is_kept(text: str, limit: int) -> None:
    text = clean(text)
    cut = fit(text, len, limit)  # a token a character
    assert text.startswith(cut)
    assert len(cut) <= limit
    words = text.split(" ")
    if len(words[0]) > limit:
        assert len(cut) == limit
    else:
        count = len(cut.split(" "))
        assert words[:count] == cut.split(" ")
        assert count == len(words) or len(" ".join(words[: count + 1])) > limit


def test_the_semantic_part_or_the_whole_plan() -> None:
    reference = Reference("a", "a bell", 1.0, (), (), 16.0, plan="Semantic: a bell Temporal: once")
    assert chosen(reference, "semantic") == "a bell"
    assert chosen(reference, "plan") == "Semantic: a bell Temporal: once"
