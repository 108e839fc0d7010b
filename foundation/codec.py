"""What the pipeline needs of an audio codec; the Oobleck VAE and the embedded vocoder both provide it."""

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Stereo waveform to latents and back.

    sample_rate: Hz. hop: samples per latent frame. channels: latent channels.
    """

    sample_rate: int
    hop: int
    channels: int

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 2, S) in [-1, 1] to (B, channels, S // hop)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, channels, L) to (B, 2, L * hop)."""
        ...
