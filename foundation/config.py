"""Dimensions of the flow model."""

from pydantic import PositiveInt, model_validator

from settings import PrismError, Section


class ModelConfig(Section):
    """Dimensions of the DiT and its conditioners; the defaults are the embedded model's.

    latent_channels: channels of a latent frame. width: token dimension. heads: attention heads, width / heads each.
    video_dim, text_dim, sync_dim: channels of the encoder features. sync_segment: sync tokens per learned position.
    timestep_features: Fourier features of the noise level. ff_mult: hidden width of the feed-forward over `width`.
    """

    latent_channels: PositiveInt = 27
    width: PositiveInt = 64
    depth: PositiveInt = 2
    heads: PositiveInt = 2
    video_dim: PositiveInt = 64
    text_dim: PositiveInt = 64
    sync_dim: PositiveInt = 64
    sync_segment: PositiveInt = 8
    timestep_features: PositiveInt = 256
    ff_mult: PositiveInt = 4

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.width % self.heads:
            raise PrismError(
                f"Model width {self.width} is not divisible by {self.heads} heads; choose a width that is a multiple."
            )
        if self.head_dim < self.rotary_dim:
            raise PrismError(
                f"Heads of {self.head_dim} dimensions (width {self.width} / {self.heads} heads) are smaller than the "
                f"{self.rotary_dim} rotated ones; use fewer heads or a larger width."
            )
        if self.timestep_features % 2:
            raise PrismError(f"timestep_features must be even (cosines and sines), got {self.timestep_features}.")
        return self

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads

    @property
    def rotary_dim(self) -> int:
        """Rotated dimensions of a head: half of it, but at least 32 (as the released code builds it)."""
        return max(self.head_dim // 2, 32)

    @classmethod
    def released(cls) -> "ModelConfig":
        """Dimensions of the released 518M PrismAudio checkpoint (DiT and conditioners)."""
        return cls(
            latent_channels=64, width=1024, depth=24, heads=16, video_dim=1024, text_dim=1024, sync_dim=768
        )  # fmt: skip
