"""The estimate against what a real learner and a real rollout worker allocate; a CPU's allocator tells exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from actors.generator import FlowGenerator
from actors.messages import Prompt, RolloutTask
from foundation.config import ModelConfig
from foundation.dit import Prepared
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig, inject
from foundation.model import FlowModel
from foundation.vocoder import Vocoder
from rewards_service.scores import Reference
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Window
from trainer.memory import Lengths, Part, estimate, peak
from trainer.update import Learner

MODEL = ModelConfig(width=128, depth=3, heads=2)
LENGTHS = Lengths(frames=48, video=9, text=11, sync=30)
MARK = 12_345
SMALL = {"group_size": 4, "prompts": 4, "steps": 6, "window_size": 2, "window_hi": 2, "minibatches": 2, "epochs": 1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "plain": ({}, {}, False),
    "bf16": ({"groups_per_pass": 1, "kl_beta": 0.1}, {"precision": "bf16"}, False),
    "recomputed": ({"cfg_scale": 2.0, "noises": 2}, {"precision": "bf16", "activation_checkpointing": True}, False),
    "members in parts": ({"cfg_scale": 2.0, "samples_per_pass": 2}, {"activation_checkpointing": True}, False),
    "adapters": ({"kl_beta": 0.1}, {"precision": "bf16", "activation_checkpointing": True}, True),
}


def model(lora: bool) -> FlowModel:
    torch.manual_seed(0)
    flow = FlowModel(MODEL)
    return inject(flow, LoraConfig(rank=4)) if lora else flow


def task(prompts: int) -> RolloutTask:
    random = np.random.default_rng(0)
    shapes = {"video": LENGTHS.video, "text": LENGTHS.text, "sync": LENGTHS.sync}
    conditions = {name: random.normal(size=(tokens, 64)).astype(np.float32) for name, tokens in shapes.items()}
    seconds = LENGTHS.frames * 500 / 16_000
    found = tuple(Prompt(f"{i}", conditions, Reference(f"{i}", "", seconds, (), (), 16.0)) for i in range(prompts))
    return RolloutTask(0, 0, Window(2, 2), tuple(range(prompts)), found, seed=1)


def allocated(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes held when a tensor of MARK bytes was made, and the most held at any time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    assert found.profiler is not None
    results: Any = found.profiler.kineto_results
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = np.cumsum([size for _, size in events])
    marks = [int(held[i]) - MARK for i, (_, size) in enumerate(events) if size == MARK]
    return (marks[0] if marks else 0), int(held.max())


def bytes_of(parts: list[Part], role: str, *names: str) -> int:
    found = [part.bytes for part in parts if part.role == role and part.part.startswith(names)]
    assert len(found) == len(names)
    return sum(found)


@pytest.mark.parametrize("case", CASES)
def test_a_learner_holds_what_was_estimated(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, how, lora = CASES[case]
    config = AlgorithmConfig.model_validate({**SMALL, **changes})
    execution = ExecutionConfig.model_validate(how)
    parts = estimate(model(lora), Vocoder(), config, LENGTHS, execution)

    learner = Learner(model(lora), config, OptimiserConfig(), {"semantic": 1.0}, execution=execution)
    generator = FlowGenerator(model(lora), Vocoder(), config, execution=execution)
    groups, waveforms = generator.generate(task(config.prompts), generator.load(learner.export()))
    for group, heard in zip(groups, waveforms, strict=True):
        group.rewards = {"semantic": heard.std(axis=(1, 2)).astype(np.float64)}
    one_pass, backward, measured = learner._pass, torch.Tensor.backward, []

    def profiled(*arguments: Any) -> Any:
        kept: list[Any] = []
        measured.append(allocated(lambda: kept.append(one_pass(*arguments))))
        return kept[0]

    def marked(loss: torch.Tensor) -> None:
        torch.empty(MARK, dtype=torch.uint8)
        backward(loss)

    monkeypatch.setattr(learner, "_pass", profiled)
    monkeypatch.setattr(torch.Tensor, "backward", marked)
    learner.update(IterationBatch.of(0, groups))

    kept = bytes_of(parts, "learner", "activations kept")
    temporary = bytes_of(parts, "learner", "temporaries of the backward")
    live, most = measured[0]
    assert kept == pytest.approx(live, rel=0.05)
    assert kept + temporary == pytest.approx(most, rel=0.05)

    states = learner.optimiser.state.values()
    moments = sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
    assert bytes_of(parts, "learner", "Adam moments") == moments
    gradients = sum(p.grad.nbytes for p in learner.parameters.values() if p.grad is not None)
    assert bytes_of(parts, "learner", "gradients") == gradients
    assert bytes_of(parts, "learner", "average") == sum(t.nbytes for t in learner.ema.shadow.values())
    weights = sum(t.nbytes for t in (*learner.model.parameters(), *learner.model.buffers()))
    assert bytes_of(parts, "learner", "weights", "weights put aside") == weights + gradients
    copies = [part for part in parts if part.part == "reference"]
    assert [part.bytes for part in copies] == ([weights] if config.kl_beta and not lora else [])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rollout_worker_holds_what_was_estimated(
    guidance: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AlgorithmConfig.model_validate({**SMALL, "noises": 2, "cfg_scale": guidance})
    execution = ExecutionConfig.model_validate({"precision": precision})
    codec = Vocoder()
    parts = estimate(model(False), codec, config, LENGTHS, execution, prompts_per_task=2, samples_per_decode=3)
    generator = FlowGenerator(model(False), codec, config, execution=execution, samples_per_decode=3)
    seen: list[tuple[str, int]] = []
    velocity, decode = FlowModel.velocity, codec.decode

    def evaluated(flow: FlowModel, x: torch.Tensor, t: Any, prepared: Prepared) -> torch.Tensor:
        found: list[torch.Tensor] = []
        _, most = allocated(lambda: found.append(velocity(flow, x, t, prepared)))
        stored = sum(part.nbytes for part in (*prepared.keys, *prepared.values, prepared.stream))
        seen.extend([("velocity", most), (f"stored {len(prepared)}", stored)])
        return found[0]

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        seen.append(("decode", allocated(lambda: found.append(decode(latents)))[1]))
        return found[0]

    # On a CPU evaluations without gradients are cut into blocks, which an accelerator's estimate must not be.
    monkeypatch.setattr(FlowModel, "_rows", lambda self, x, prepared: len(x))
    monkeypatch.setattr(FlowModel, "velocity", evaluated)
    monkeypatch.setattr(codec, "decode", decoded)
    generator.generate(task(2), "")
    found = dict(seen)
    assert bytes_of(parts, "rollout", "temporaries of a velocity") == pytest.approx(
        max(size for name, size in seen if name == "velocity"), rel=0.05
    )
    assert bytes_of(parts, "rollout", "keys and values") == found["stored 4"] + found["stored 8"]
    assert bytes_of(parts, "rollout", "decoding 3") == pytest.approx(
        max(size for name, size in seen if name == "decode"), rel=0.05
    )


def test_phases_take_turns() -> None:
    parts = [Part("a", "x", 10), Part("a", "y", 3, "one"), Part("a", "z", 4, "one"), Part("a", "v", 5, "two")]
    assert (peak([*parts, Part("b", "w", 99)], "a"), peak(parts, "c")) == (17, 0)


def test_the_released_model_needs_what_its_numbers_say() -> None:
    """518M parameters of which 511M are trained, 20 bytes each with gradient, moments and average; nothing is made."""
    with torch.device("meta"):
        flow = FlowModel(ModelConfig.released())
    config = AlgorithmConfig(preset="fast", groups_per_pass=1, group_size=2, steps=4, window_hi=1, prompts=2)
    codec = Vocoder()
    codec.channels = 64
    codec.decode = lambda latents: latents.new_zeros(len(latents), 2, 99)  # type: ignore[method-assign]
    parts = estimate(flow, codec, config, Lengths(), ExecutionConfig(precision="bf16", activation_checkpointing=True))
    trained = 511_365_248 - 2 * 1024
    assert bytes_of(parts, "learner", "gradients", "Adam moments", "average") == pytest.approx(16 * trained, rel=1e-4)
    assert bytes_of(parts, "learner", "weights", "weights put aside") == pytest.approx(
        4 * (518.19e6 + trained), rel=1e-3
    )
    assert next(flow.parameters()).device.type == "meta"
