"""The StereoCRW port against torchvision's and torchaudio's own modules, and against delays made by hand."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foundation.errors import CheckpointError
from foundation.stereo_crw import GROUP, PATCH, PATCHES, STRIDE, StereoCRW

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "stereo_crw.json").read_text())


def waves() -> dict[str, Tensor]:
    """A released file's tensors, filled with sines that the fixture was made with too."""
    tensors = {}
    for i, (name, shape) in enumerate(GOLDEN["shapes"].items()):
        count = math.prod(shape)
        w = torch.sin(torch.arange(count, dtype=torch.float64) * (0.7 + 0.13 * (i % 7)) + i)
        if name == "trans.window":
            w = torch.hann_window(256)
        elif name.endswith("num_batches_tracked"):
            w = torch.tensor([3])
        elif name.endswith("running_var"):
            w = 1 + 0.5 * w
        elif name.endswith(("running_mean", "bias")):
            w = 0.1 * w
        elif len(shape) == 1:
            w = 1 + 0.3 * w
        else:
            w = w * math.sqrt(4 * shape[0] / count)
        tensors[name] = w.view(shape).to(torch.int64 if name.endswith("tracked") else torch.float32)
    return tensors


def untrained(seed: int) -> StereoCRW:
    """The network as torchvision's is before training, but for the statistics of one batch of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StereoCRW().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()(noise(0.0, 99)[0].unfold(-1, PATCH, 32).flatten(0, 1))
        return network.eval()


def noise(later: float, seed: int = 0) -> Tensor:
    """(1, 2, 1216) white noise whose right channel lags by `later` ms."""
    count = 4 * GROUP
    spectrum = torch.fft.rfft(0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed)))
    shift = torch.exp(-2j * math.pi * torch.fft.rfftfreq(count) * later * 16)
    both = torch.stack([torch.fft.irfft(spectrum, count), torch.fft.irfft(spectrum * shift, count)])
    return both[None, :, GROUP : 2 * GROUP]


def test_names_and_shapes_are_the_released_ones() -> None:
    own = {name: list(tensor.shape) for name, tensor in StereoCRW().state_dict().items()}
    assert list(own.items()) == list(GOLDEN["shapes"].items())
    assert len(own) == 75
    assert sum(p.numel() for p in StereoCRW().parameters()) == GOLDEN["parameters"] == 4_968_320


def test_vectors_and_delay_are_those_of_the_original_modules() -> None:
    """Golden: torchvision's ResNet and torchaudio's Spectrogram, wired as in IFICL/stereocrw."""
    network = StereoCRW.of(waves())
    n = torch.arange(GROUP, dtype=torch.float64)
    left = 0.4 * ((n * n * n * 0.6180339887) % 1 - 0.5)
    pair = torch.stack([left, left.roll(5)])[None].float()
    ends = torch.stack([pair[0, 0, :PATCH], pair[0, 1, (PATCHES - 1) * STRIDE :]])
    found = network(ends)
    torch.testing.assert_close(found[0], torch.tensor(GOLDEN["left_first"]), atol=2e-5, rtol=0)
    torch.testing.assert_close(found[1], torch.tensor(GOLDEN["right_last"]), atol=2e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))
    assert network.delay_ms(pair).item() == pytest.approx(GOLDEN["delay_ms"], abs=1e-4)


def test_normalisation_runs_in_evaluation_mode() -> None:
    """What else is in a batch must not change a vector, as it does in the released reward."""
    network = StereoCRW.of(waves())
    patches = noise(0.3)[0, :, :PATCH]
    alone = network(patches[:1])
    torch.testing.assert_close(network(patches)[:1], alone, atol=1e-5, rtol=0)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("seed", [0, 1])
def test_even_without_training_it_follows_the_sign_of_a_delay(seed: int) -> None:
    """Weakly: an untrained network keeps a fifth to a third of it."""
    network = untrained(seed)
    early, level, late = (network.delay_ms(noise(later)).item() for later in (-0.5, 0.0, 0.5))
    assert -0.5 < early < -0.08
    assert abs(level) < 0.02
    assert 0.08 < late < 0.5


def test_a_file_that_does_not_fit_is_refused_by_name() -> None:
    tensors = waves()
    del tensors["net.layer3.0.conv2.weight"]
    tensors["net.extra"] = torch.zeros(1)
    tensors["net.fc.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as told:
        StereoCRW.of(tensors, "a.pth.tar")
    for part in ("a.pth.tar", "missing (1): net.layer3.0.conv2.weight", "unexpected (1): net.extra", "net.fc.bias"):
        assert part in str(told.value)
