"""A feature store for the tiny model, and a loop on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foundation import checkpoint
from media.features import AUDIO, AUDIO_SCALE, SYNC, TEXT, VIDEO, FeatureStore, stretch_id, text_id
from tests.trainer.builders import TINY, tiny_model
from trainer.config import LearnerConfig
from trainer.examples import EncoderNames, Example, write_examples
from trainer.flow_matching import FlowMatchingConfig
from trainer.supervised import EXAMPLES, SupervisedLoop

NAMES = EncoderNames(video="videoprism-1", sync="synchformer-1", text="t5gemma-1", audio="oobleck-1")
LENGTHS = (8, 6)


def write_store(root: Path, count: int = 12, parts: int = 3) -> list[Example]:
    """Clips of two lengths with texts of several, whose latents follow from their text; in several parts."""
    store, examples = FeatureStore(root), []
    rows: dict[str, dict[str, Any]] = {name: {} for name in NAMES.model_dump().values()}
    for i in range(count):
        random = np.random.default_rng([3, i])
        length, tokens = LENGTHS[i % 3 == 0], 2 + i % 4
        clip, text = stretch_id(f"{i:064x}", 0, 1), text_id(f"text {i}")
        tone = random.standard_normal((TINY.text_dim, 1))
        rows[NAMES.video][clip] = {VIDEO: random.standard_normal((2, TINY.video_dim))}
        rows[NAMES.sync][clip] = {SYNC: random.standard_normal((length, TINY.sync_dim))}
        rows[NAMES.text][text] = {TEXT: np.repeat(tone.T, tokens, 0)}
        mean = np.tile(np.tanh(tone[: TINY.latent_channels]), (1, length))
        rows[NAMES.audio][clip] = {AUDIO: mean, AUDIO_SCALE: np.full_like(mean, 0.05)}
        examples.append(Example(clip, text, tokens, heldout=i >= count - 3))
        if (i + 1) % (count // parts) == 0:
            for encoder, found in rows.items():
                store.write(encoder, found)
                found.clear()
    return examples


def supervised(folder: Path, examples: Sequence[Example] | None = None, **changes: Any) -> SupervisedLoop:
    """A loop in `folder`/run on the tiny model; changes: fields of the loop, `training` and `learner` as dicts."""
    run, store = folder / "run", folder / "features"
    run.mkdir(parents=True, exist_ok=True)
    if not (run / EXAMPLES).exists():
        write_examples(run / EXAMPLES, write_store(store) if examples is None else examples)
        checkpoint.save(folder / "start.safetensors", tiny_model(), {"words": ["toy"]})
    training = {"batch": 5, "lr": 3e-3, "warmup": 0.5, "ema_beta": 0.9, **changes.pop("training", {})}
    learner = {"iterations": 4, "checkpoint_every": 2, "eval_every": 2, **changes.pop("learner", {})}
    return SupervisedLoop(
        seed=3,
        model_path=str(folder / "start.safetensors"),
        run_dir=str(run),
        features=str(store),
        encoders=NAMES,
        training=FlowMatchingConfig.model_validate(training),
        learner=LearnerConfig.model_validate(learner),
        **changes,
    )
