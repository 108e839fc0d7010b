"""Which stored features become examples, and what is held out."""

import numpy as np
import pytest

from media.features import FeatureError, FeatureStore, text_id
from media.stretches import Stretch
from tests.trainer.builders import TINY, tiny_model
from tests.trainer.features import NAMES, write_store
from trainer.examples import EncoderNames, Example, find_examples, token_counts
from trainer.feature_batches import Draws, FeatureBatches
from trainer.flow_matching import flow_matching_loss
from trainer.shuffle import InOrder


def table(examples: list[Example], **changes) -> list[Stretch]:
    return [
        Stretch(e.clip, f"clip{i}", f"clip{i}.mp4", 0.0, 1.0, "0", text=f"text {i}", **changes)
        for i, e in enumerate(examples)
    ]


def test_every_complete_stretch_is_an_example(tmp_path) -> None:
    made = write_store(tmp_path)
    found = find_examples(FeatureStore(tmp_path), NAMES, table(made), heldout_share=0)
    assert found.left_out == ()
    assert [(e.clip, e.text, e.tokens) for e in found.examples] == [(e.clip, e.text, e.tokens) for e in made]
    assert not any(e.heldout for e in found.examples)
    assert token_counts(FeatureStore(tmp_path), NAMES.text) == {e.text: e.tokens for e in made}


def test_what_lacks_something_is_named(tmp_path) -> None:
    made, store = write_store(tmp_path), FeatureStore(tmp_path)
    rows = [*table(made)[1:], Stretch("other-0-1000", "x", "x.mp4", 2.5, 1.0, "0", text="text 1")]
    rows.append(Stretch(made[0].clip, "clip0", "clip0.mp4", 0.0, 1.0, "0", text="a text nobody encoded"))
    found = find_examples(store, NAMES, rows)
    assert len(found.examples) == 11
    assert dict(found.left_out) == {
        made[0].clip: "clip0.mp4 at 0 s has no text_features",
        "other-0-1000": "x.mp4 at 2.5 s has no video_features, sync_features, latent",
    }


def test_captions_instead_of_plans(tmp_path) -> None:
    made, store = write_store(tmp_path), FeatureStore(tmp_path)
    found = find_examples(store, NAMES, table(made, caption="text 3"), "caption")
    assert {e.text for e in found.examples} == {text_id("text 3")}
    assert find_examples(store, NAMES, table(made), "caption").examples == ()


def test_sound_without_a_picture_trains_the_text_path_alone(tmp_path) -> None:
    made, store = write_store(tmp_path), FeatureStore(tmp_path)
    heard = store.read(NAMES.audio, [made[1].clip])[made[1].clip]
    store.write(NAMES.audio, {"sound-0-1000": heard})
    rows = [*table(made), Stretch("sound-0-1000", "s", "s.flac", 0.0, 1.0, "0", text="text 1")]
    assert len(find_examples(store, NAMES, rows).examples) == 12
    examples = find_examples(store, NAMES, rows, without_picture=True).examples
    [sound] = [e for e in examples if not e.seen]
    batches = FeatureBatches(
        str(tmp_path), NAMES, [sound], InOrder(1, 1), Draws(0, 0.0, "uniform"), TINY
    )  # fmt: skip
    [part] = batches.at(0).passes
    assert [mask.item() for mask in part.drop] == [False, True, True]
    model = tiny_model()
    loss = flow_matching_loss(model, part, 0.5)
    part.features.sync[:] = 3.0
    assert flow_matching_loss(model, part, 0.5).item() == loss.item()
    part.features.text[:] = 3.0
    assert flow_matching_loss(model, part, 0.5).item() != loss.item()


def test_held_out_are_other_splits_or_a_share_of_the_clips(tmp_path) -> None:
    made, store = write_store(tmp_path), FeatureStore(tmp_path)
    rows = table(made)
    split = [*rows[:-2], *table(made, split="test")[-2:]]
    held = [e.heldout for e in find_examples(store, NAMES, split, heldout_share=0.9).examples]
    assert held == [False] * 10 + [True] * 2
    first = find_examples(store, NAMES, rows, heldout_share=0.4).examples
    again = find_examples(store, NAMES, rows[2:], heldout_share=0.4).examples
    assert first[2:] == again
    assert 1 <= sum(e.heldout for e in first) < 12
    assert sum(e.heldout for e in find_examples(store, NAMES, rows, heldout_share=1e-9).examples) == 1


def test_identities_are_found_by_kind(tmp_path) -> None:
    write_store(tmp_path)
    store = FeatureStore(tmp_path)
    assert EncoderNames(audio="oobleck").resolve(store) == NAMES
    store.write("oobleck-2", {"a": {"latent": np.ones((2, 2))}})
    with pytest.raises(FeatureError, match="oobleck-1, oobleck-2"):
        EncoderNames(audio="oobleck").resolve(store)
