"""StereoCRW: a network that finds for a moment of one channel the moment of the other in which the same is heard.

A residual network makes a vector of 64 ms of one channel (the complex spectrogram, 128 x 128); delays are read from
which vectors of both channels are alike. Names and shapes are those of the released files.
Source: IFICL/stereocrw models/audio_encoder.py, vis_scripts/vis_functs.py (Chen, Fouhey, Owens 2022, arXiv:2204.12489).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foundation.flat import load_strict

RATE = 16_000
PATCH = 1024
STRIDE = 4
PATCHES = 49
GROUP = PATCH + (PATCHES - 1) * STRIDE
MAX_DELAY_S = 1.5e-3
TAU = 0.05
N_FFT = 256
HOP = PATCH // 128
WIDTHS = (64, 128, 256, 512)
DIM = 128


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + kept)


class _ResNet(nn.Module):
    """One block of two convolutions in each of four stages; two channels in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = nn.Sequential(_Block(WIDTHS[0], WIDTHS[0], 1))
        self.layer2 = nn.Sequential(_Block(WIDTHS[0], WIDTHS[1], 2))
        self.layer3 = nn.Sequential(_Block(WIDTHS[1], WIDTHS[2], 2))
        self.layer4 = nn.Sequential(_Block(WIDTHS[2], WIDTHS[3], 2))
        self.fc = nn.Linear(WIDTHS[3], DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class _Window(nn.Module):
    """Holds the analysis window, which the released files store."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT))


class StereoCRW(nn.Module):
    """The network in evaluation mode, for windows of 64 ms as it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.trans = _Window()
        self.net = _ResNet()
        self.eval()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str = "the file") -> "StereoCRW":
        """With the tensors of a released file. Raises CheckpointError for missing, unexpected and misshaped names."""
        with torch.device("meta"):
            model = cls()
        load_strict(model, tensors, source)
        return model.eval().requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        """(P, 1024) samples at 16 kHz to (P, 128) vectors of length 1."""
        window = self.trans.window
        spectrum = torch.stft(patches, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
        # Time before frequency; the last frame and the highest bin are left out.
        image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)[:, :, :-1, :-1]
        return normalize(self.net(image), dim=-1)

    def delay_ms(self, groups: Tensor) -> Tensor:
        """(B, 2, 1216) samples at 16 kHz to (B,) ms by which the right channel lags, at most 1.5, negative if it leads.

        49 patches of both channels, 4 samples apart. For each of the left one, away from the ends, the mean place of
        the right ones at most 1.5 ms away, by the softmax of their likeness over 0.05; the mean over these.
        """
        patches = groups.unfold(-1, PATCH, STRIDE)
        vectors = self(patches.flatten(0, 2)).unflatten(0, patches.shape[:3])
        likeness = vectors[:, 0] @ vectors[:, 1].transpose(1, 2) / TAU
        place = torch.arange(PATCHES, device=groups.device)
        steps = place - place[:, None]
        reach = int(RATE * MAX_DELAY_S / STRIDE)
        chances = likeness.masked_fill(steps.abs() > reach, -torch.inf).softmax(-1)
        lags = (chances * steps).sum(-1)[:, reach:-reach]
        return lags.mean(-1) * (1000 * STRIDE / RATE)
