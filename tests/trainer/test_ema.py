import json
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.ema import Ema

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "grpo_step.json").read_text())["ema"]


def parameter(values) -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.tensor(values))}


def test_the_released_schedule():
    weights = parameter([0.0, 0.0, 0.0])
    ema = Ema(weights, GOLDEN["decay"], every=GOLDEN["update_step_interval"], warmup=True)
    for step, _, *values in GOLDEN["rows_s_decay_values"]:
        with torch.no_grad():
            weights["w"].copy_(torch.tensor([step, (0.1 * step) ** 2, 1.0]))
        ema.update(weights)
        torch.testing.assert_close(ema.shadow["w"], torch.tensor(values), atol=1e-6, rtol=1e-6)


def test_by_hand_and_back():
    weights = parameter([1.0])
    ema = Ema(weights, 0.5)
    with torch.no_grad():
        weights["w"].fill_(3.0)
    ema.update(weights)
    ema.update(weights)
    assert ema.shadow["w"].item() == 2.5
    with ema.applied(weights):
        assert weights["w"].item() == 2.5
    assert weights["w"].item() == 3.0
    with pytest.raises(RuntimeError), ema.applied(weights):
        raise RuntimeError
    assert weights["w"].item() == 3.0


def test_decay_zero_follows_the_weights():
    weights = parameter([1.0])
    ema = Ema(weights, 0.0)
    with torch.no_grad():
        weights["w"].fill_(0.3)
    ema.update(weights)
    assert torch.equal(ema.shadow["w"], weights["w"].detach())
