"""The embedded codec: a training-free parametric-stereo vocoder.

Per latent frame: 24 log band levels, level difference and delay between the ears, tonality. Decoding is a batched
product of band amplitudes with fixed tone and noise carriers, delayed by a mix of phases, levelled per ear and
overlap-added.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BANDS = 24
LEVEL_CENTER_DB, LEVEL_SCALE_DB, FLOOR_DB = -50.0, 20.0, -80.0
PAN_SCALE = 2.2
MAX_LEVEL_DIFFERENCE_DB = 12.0
MAX_DELAY_S = 10.0 / 16_000
REACH = 40  # frames of pan smoothing on each side
BLOCK = 4  # frames decoded at once; fewer make more calls, more leave the cache
LATENT_NAMES = (*(f"level{i}" for i in range(BANDS)), "level_difference", "delay", "tonality")


def _mel_edges(bands: int, low: float, high: float) -> Tensor:
    mel = torch.linspace(2595 * math.log10(1 + low / 700), 2595 * math.log10(1 + high / 700), bands + 1)
    return 700 * (10 ** (mel / 2595) - 1)


class Vocoder(nn.Module):
    """Implements `foundation.codec.Codec`; no trained parameters, all tables are functions of the sample rate.

    Latents: 24 levels as (dB + 50) / 20, level difference (right over left) / 12 dB * 2.2, delay (left lags) / 10
    samples at 16 kHz * 2.2, tonality in [-1, 1]. carrier_frames: after how many frames the carriers repeat, a multiple
    of BLOCK.
    """

    channels = BANDS + 3
    bank: Tensor
    analysis_window: Tensor
    smoothing: Tensor
    angular: Tensor
    carriers: Tensor

    def __init__(self, sample_rate: int = 16_000, hop: int = 500, carrier_frames: int = 64):
        super().__init__()
        self.sample_rate, self.hop, self.carrier_frames = sample_rate, hop, carrier_frames
        self.n_fft = 512
        self.max_delay = MAX_DELAY_S * sample_rate
        edges = _mel_edges(BANDS, 50.0, 0.495 * sample_rate)
        bins = torch.fft.rfftfreq(self.n_fft, 1 / sample_rate)
        which = torch.bucketize(bins, edges) - 1
        bank = F.one_hot(which.clamp(0, BANDS - 1), BANDS).float() * ((which >= 0) & (which < BANDS))[:, None]
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("analysis_window", torch.hann_window(self.n_fft), persistent=False)
        offsets = torch.arange(-REACH, REACH + 1).float()
        # The faint wide tail carries the pan of the loud frames across the silence between them.
        kernel = torch.exp(-0.5 * (offsets / 4) ** 2) + 1e-3 * torch.exp(-offsets.abs() / 10)
        self.register_buffer("smoothing", kernel[None, None], persistent=False)
        centers = (edges[:-1] + edges[1:]) / 2
        self.register_buffer("angular", 2 * math.pi * centers / sample_rate, persistent=False)
        self.register_buffer("carriers", self._carriers(centers, edges), persistent=False)

    def _carriers(self, centers: Tensor, edges: Tensor) -> Tensor:
        """(carrier_frames, 4 * BANDS, 2 * hop): tones, noises, then both shifted by a quarter period; Hann-windowed."""
        length = (self.carrier_frames + 1) * self.hop
        phase = 2 * math.pi * centers[:, None] * torch.arange(length) / self.sample_rate + torch.arange(BANDS)[:, None]
        generator = torch.Generator().manual_seed(1234)
        spectrum = torch.fft.rfft(torch.randn(length, generator=generator))
        frequency = torch.fft.rfftfreq(length, 1 / self.sample_rate)
        inside = spectrum * ((frequency >= edges[:-1, None]) & (frequency < edges[1:, None]))
        noise, shifted = torch.fft.irfft(inside, length), torch.fft.irfft(-1j * inside, length)
        scale = noise.pow(2).mean(-1, keepdim=True).rsqrt()
        root = math.sqrt(2)
        rows = torch.cat([root * phase.cos(), noise * scale, root * phase.sin(), shifted * scale])
        frames = rows.unfold(-1, 2 * self.hop, self.hop) * torch.hann_window(2 * self.hop)
        return frames.transpose(0, 1).contiguous()

    def _smooth(self, value: Tensor) -> Tensor:
        """(..., L) smoothed over frames."""
        flat = value.reshape(-1, 1, value.shape[-1])
        return F.conv1d(flat, self.smoothing, padding=REACH).reshape(value.shape)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 2, S) in [-1, 1] to (B, 27, S // hop)."""
        batch, _, samples = waveform.shape
        length, sub = samples // self.hop, 4
        spectrum = torch.stft(
            waveform.reshape(batch * 2, samples), self.n_fft, self.hop // sub, window=self.analysis_window,
            center=True, return_complex=True,
        )[..., : length * sub]  # fmt: skip
        spectrum = spectrum.reshape(batch, 2, -1, length, sub)
        # An impact between two frame centres belongs to the later sub-frames of the first: average within the frame.
        power = spectrum.abs().pow(2).mean(-1) * (2 / (self.analysis_window.sum() * self.n_fft * 0.75))
        bands = torch.einsum("bcfl,fk->bckl", power, self.bank)
        total = bands.sum(1) / 2
        decibel = (10 * torch.log10(total + 1e-12)).clamp(min=FLOOR_DB)
        levels = (decibel - LEVEL_CENTER_DB) / LEVEL_SCALE_DB
        energy = self._smooth(bands.sum(2)) + 1e-10
        difference = 10 * torch.log10(energy[:, 1] / energy[:, 0]) / MAX_LEVEL_DIFFERENCE_DB
        delay = self._delay(spectrum) / self.max_delay
        mono = power.mean(1)
        audible = mono + 1e-9
        flatness = (audible.log().mean(1).exp() / audible.mean(1)).clamp(0, 1)
        weight = bands.sum((1, 2))
        tonality = 2 * self._smooth((1 - flatness.sqrt()) * weight) / (self._smooth(weight) + 1e-12) - 1
        pans = PAN_SCALE * torch.stack([difference, delay], 1).clamp(-1.5, 1.5)
        return torch.cat([levels, pans, tonality[:, None]], 1)

    def _delay(self, spectrum: Tensor) -> Tensor:
        """Delay of the left channel behind the right in samples, (B, L), by generalised cross-correlation."""
        cross = (spectrum[:, 0] * spectrum[:, 1].conj()).sum(-1)
        # Whitened per frequency over the whole clip, so that loud frames keep their weight in time.
        cross = cross / (cross.abs().mean(-1, keepdim=True).pow(0.7) + 1e-9)
        smooth = torch.complex(self._smooth(cross.real.contiguous()), self._smooth(cross.imag.contiguous()))
        correlation = torch.fft.irfft(smooth, 4 * self.n_fft, dim=1)
        reach = math.ceil(1.1 * self.max_delay * 4)
        lags = torch.arange(-reach, reach + 1, device=spectrum.device)
        return lags[correlation[:, lags].argmax(1)] / 4.0

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 27, L) to (B, 2, L * hop).

        A delay turns each band's carrier into a mix of itself and its quarter-period twin. The ears share the former
        and differ in the sign of the latter, so both come out of one product with each half of the carriers.
        """
        batch, _, length = latents.shape
        straight, turned, gain = self._amplitudes(latents)
        # Each piece is centred on its frame: its second half overlaps the next frame's first half.
        out = latents.new_zeros(batch, 2, length + 1, self.hop)
        ears = out.permute(1, 2, 0, 3)
        for first in range(0, length, BLOCK):
            last = min(first + BLOCK, length)
            place = first % self.carrier_frames
            plain, twin = self.carriers[place : place + last - first].split(2 * BANDS, dim=1)
            middle, side = torch.bmm(straight[first:last], plain), torch.bmm(turned[first:last], twin)
            pieces = ((middle - side, 1 / gain[first:last]), (middle + side, gain[first:last]))
            for ear, (piece, level) in zip(ears, pieces, strict=True):
                ear[first:last].addcmul_(piece[..., : self.hop], level)
                ear[first + 1 : last + 1].addcmul_(piece[..., self.hop :], level)
        half = self.hop // 2
        return out.reshape(batch, 2, -1)[..., half : half + length * self.hop]

    def _amplitudes(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(L, B, 48) amplitudes of the carriers and of their twins in the right ear, and its (L, B, 1) gain."""
        decibel = latents[:, :BANDS] * LEVEL_SCALE_DB + LEVEL_CENTER_DB
        amplitude = (10 ** (decibel.clamp(FLOOR_DB, 0.0) / 20) - 10 ** (FLOOR_DB / 20)).permute(2, 0, 1)
        tone = ((latents[:, -1] + 1) / 2).clamp(0, 1).T[..., None]
        pans = (latents[:, BANDS : BANDS + 2] / PAN_SCALE).clamp(-1.5, 1.5).permute(2, 0, 1)
        mixed = torch.cat([amplitude * tone.sqrt(), amplitude * (1 - tone).sqrt()], -1)
        lead = pans[..., 1:] * self.max_delay / 2 * self.angular
        gain = torch.exp(math.log(10) / 40 * MAX_LEVEL_DIFFERENCE_DB * pans[..., :1])
        return mixed * lead.cos().repeat(1, 1, 2), -mixed * lead.sin().repeat(1, 1, 2), gain
