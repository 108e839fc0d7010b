"""Batches out of a real store: shares, padding, what is drawn, and features that are missing or broken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from media.features import AUDIO, AUDIO_SCALE, TEXT, FeatureStore
from settings import PrismError
from tests.trainer.builders import TINY
from tests.trainer.features import NAMES, write_store
from trainer.examples import Example, read_examples, write_examples
from trainer.feature_batches import Batch, Draws, FeatureBatches, LoaderConfig, read_features
from trainer.shuffle import Shuffle


def reader(
    folder: Path, examples: list[Example], batch: int = 6, rank: int = 0, world: int = 1, **draws
) -> FeatureBatches:
    drawn = Draws(**{"seed": 1, "condition_dropout": 0.3, "timesteps": "trunc_logit_normal", **draws})
    shuffle = Shuffle(len(examples), batch, 1)
    return FeatureBatches(str(folder), NAMES, examples, shuffle, drawn, TINY, None, rank, world)


def rows(batches: list[Batch]) -> list[tuple]:
    """Everything about every example, in an order that does not depend on who read it."""
    found = []
    for part in (part for batch in batches for part in batch.passes):
        tensors = (*vars(part.features).values(), part.latents, part.noise, part.times, *part.drop)
        found += [tuple(tensor[k].numpy().tobytes() for tensor in tensors) for k in range(len(part))]
    return sorted(found)


def test_an_example_is_what_the_store_holds(tmp_path) -> None:
    examples = write_store(tmp_path)
    [part] = reader(tmp_path, examples[:1], batch=1, condition_dropout=0.0).at(0).passes
    held = FeatureStore(tmp_path).read(NAMES.audio, [examples[0].clip])[examples[0].clip]
    assert part.features.text.shape == (1, examples[0].tokens, 4)
    offset = (part.latents[0].numpy() - held[AUDIO]) / held[AUDIO_SCALE]
    assert 0.5 < offset.std() < 1.5
    assert np.abs(offset - part.noise[0].numpy()).max() > 0.1
    assert not any(mask.any() for mask in part.drop)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_a_batch_without_overlap_and_draw_the_same(tmp_path, world) -> None:
    examples = write_store(tmp_path)
    for step in (0, 3):
        alone = reader(tmp_path, examples).at(step)
        shares = [reader(tmp_path, examples, rank=rank, world=world).at(step) for rank in range(world)]
        assert len(alone) == sum(map(len, shares)) == 6
        assert rows([alone]) == rows(shares)


def test_texts_are_padded_with_zeros_to_the_longest_of_the_whole_batch(tmp_path) -> None:
    examples = write_store(tmp_path)
    batches = reader(tmp_path, examples, rank=1, world=2)
    longest = max(examples[index].tokens for index in batches.shuffle.at(0))
    share = batches.at(0)
    assert {part.features.text.shape[1] for part in share.passes} == {longest}
    blank = sum((part.features.text.abs().sum(2) == 0).sum().item() for part in share.passes)
    mine = [examples[index].tokens for index in batches.shuffle.at(0)[1::2]]
    assert blank == sum(longest - tokens for tokens in mine)


def test_clips_of_other_lengths_and_large_shares_get_passes_of_their_own(tmp_path) -> None:
    examples = write_store(tmp_path)
    batches = reader(tmp_path, examples, batch=12)
    assert sorted((len(p), p.latents.shape[2]) for p in batches.at(0).passes) == [(4, 6), (8, 8)]
    batches.per_pass = 3
    cut = sorted((p.latents.shape[2], len(p)) for p in batches.at(0).passes)
    assert cut == [(6, 1), (6, 3), (8, 2), (8, 3), (8, 3)]


def test_batches_prepared_ahead_are_those_asked_for_one_by_one(tmp_path) -> None:
    examples = write_store(tmp_path)
    batches = reader(tmp_path, examples)
    for prefetch, threads in ((0, 1), (3, 2), (9, 4)):
        ahead = list(batches.run(2, 7, LoaderConfig(prefetch=prefetch, threads=threads)))
        assert [batch.step for batch in ahead] == [2, 3, 4, 5, 6]
        assert [rows([batch]) for batch in ahead] == [rows([batches.at(step)]) for step in range(2, 7)]


def test_stopping_early_ends_the_threads(tmp_path) -> None:
    steps = reader(tmp_path, write_store(tmp_path)).run(0, 1000, LoaderConfig())
    assert next(steps).step == 0
    steps.close()
    assert list(steps) == []


def test_a_missing_and_a_broken_example_are_named_and_the_others_kept(tmp_path) -> None:
    examples = write_store(tmp_path)
    examples[3] = Example("gone-0-1000", examples[3].text, examples[3].tokens)
    FeatureStore(tmp_path).write(NAMES.text, {"text-odd": {TEXT: np.ones(4)}})
    examples[5] = Example(examples[5].clip, "text-odd", 1)
    batch = reader(tmp_path, examples, batch=12).at(0)
    assert len(batch) == 10
    reasons = dict(batch.skipped)
    assert set(reasons) == {"gone-0-1000", examples[5].clip}
    assert "gone-0-1000" in reasons["gone-0-1000"]
    assert "(4,)" in reasons[examples[5].clip]


def test_a_damaged_part_costs_only_its_own_examples(tmp_path) -> None:
    examples = write_store(tmp_path)
    part = sorted((tmp_path / f"encoder={NAMES.sync}").iterdir())[0]
    store = FeatureStore(tmp_path)
    whole, _ = read_features(store, NAMES, examples)
    data = bytearray(part.read_bytes())
    data[4:40] = bytes(36)
    part.write_bytes(bytes(data))
    found, skipped = read_features(store, NAMES, examples)
    assert len(skipped) == 4
    assert len(found) == 8
    assert all(part.name in reason for reason in skipped.values())
    for key, arrays in found.items():
        assert all(np.array_equal(arrays[name], whole[key][name]) for name in arrays)


def test_levels_follow_the_sampler_and_masks_their_probability(tmp_path) -> None:
    draws = Draws(0, 0.25, "uniform")
    mean = np.zeros((1, 1), np.float32)
    drawn = [draws.at(place, mean, None) for place in range(2000)]
    times = torch.cat([row[2] for row in drawn])
    masks = torch.stack([torch.cat(row[3:]) for row in drawn]).float()
    assert times.mean().item() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(masks.mean(0), torch.full((3,), 0.25), atol=0.03, rtol=0)
    # Independent: all three together in about .25 ** 3 of the cases.
    assert 0.005 < masks.prod(1).mean().item() < 0.03


def test_the_list_of_examples_survives_the_disk(tmp_path) -> None:
    examples = write_store(tmp_path)
    write_examples(tmp_path / "examples.jsonl", examples)
    assert read_examples(tmp_path / "examples.jsonl") == examples
    (tmp_path / "examples.jsonl").write_text('{"clip": "a"}\n')
    with pytest.raises(PrismError, match=r"examples\.jsonl is not the list"):
        read_examples(tmp_path / "examples.jsonl")
