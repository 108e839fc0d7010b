"""The autoencoder against numbers of the original implementation, in every layout and in pieces."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foundation.errors import CheckpointError
from foundation.flat import VAE_PREFIXES, vae_names
from foundation.oobleck import Oobleck
from tests.foundation.conftest import FIXTURES, read_tensors
from tests.foundation.released import vae_state


@pytest.fixture(scope="module")
def golden() -> Oobleck:
    return Oobleck.of(read_tensors("vae_a_weights.safetensors"))


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return read_tensors("vae_a_io.safetensors")


def small(strides: tuple[int, ...] = (2, 4), seed: int = 0) -> Oobleck:
    torch.manual_seed(seed)
    return Oobleck(channels=4, width=4, multiples=(1,) * len(strides), strides=strides).eval()


def worst(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return (actual - expected).abs().max().item()


@torch.no_grad()
def test_golden_encoder(golden: Oobleck, io: dict[str, Tensor]) -> None:
    mean, deviation = golden.posterior(io["waveform"])
    assert worst(mean, io["encoder_mean"]) < 2e-5
    assert worst(deviation, torch.nn.functional.softplus(io["encoder_scale"]) + 1e-4) < 2e-5
    assert worst(golden.encode(io["waveform"]), io["encoder_mean"]) < 2e-5
    assert worst(golden.encode(io["waveform"], io["bottleneck_noise"]), io["sampled_latent"]) < 2e-5


@torch.no_grad()
def test_golden_decoder(golden: Oobleck, io: dict[str, Tensor]) -> None:
    assert worst(golden.decode(io["latent_in"]), io["decoded"]) < 1e-4
    assert worst(golden.decode(io["encoder_mean"][:1]), io["decoded_from_mean0"]) < 1e-4
    one_by_one = torch.cat([golden.decode(row) for row in io["latent_in"].split(1)])
    assert worst(one_by_one, io["decoded"]) < 1e-4


def test_dimensions_are_read_from_the_tensors(golden: Oobleck) -> None:
    assert (golden.sample_rate, golden.hop, golden.channels, golden.strides) == (44_100, 2048, 64, (2, 4, 4, 8, 8))
    other = Oobleck(5, 4, (1, 3), (4, 6), audio_channels=1, decoder_width=6, decoder_multiples=(2, 3))
    again = Oobleck.of(other.official_state())
    assert (again.hop, again.channels, again.audio_channels) == (24, 5, 1)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in other.state_dict().items()}


def test_released_names_and_shapes_in_the_released_order() -> None:
    with torch.device("meta"):
        state = Oobleck().official_state()
    actual = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in state.items()]
    assert actual == (FIXTURES / "prismaudio_vae_keys.txt").read_text().splitlines()
    assert sum(tensor.numel() for tensor in state.values()) == 156_112_514


@pytest.mark.parametrize("prefix", VAE_PREFIXES)
def test_every_layout_loads_and_is_written_back(prefix: str) -> None:
    tensors = vae_state(prefix)
    tensors |= {"discriminator.weight": torch.ones(2)}  # Lightning files carry more than the autoencoder
    codec = Oobleck.of(tensors)
    assert vae_names(tensors) == (prefix, list(vae_state(prefix)))
    back = codec.official_state(prefix)
    assert list(back) == list(vae_state(prefix))
    assert all(torch.equal(back[name], tensors[name]) for name in back)


@given(
    strides=st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=3),
    length=st.integers(1, 70),
    budget=st.integers(1, 60),
    clips=st.integers(1, 3),
)
@torch.no_grad()
def test_pieces_equal_the_whole(strides: list[int], length: int, budget: int, clips: int) -> None:
    codec = small(tuple(strides))
    latents = torch.randn(clips, 4, length, generator=torch.Generator().manual_seed(length))
    whole = codec.decode(latents, frames=None)
    assert whole.shape == (clips, 2, length * codec.hop)
    torch.testing.assert_close(codec.decode(latents, frames=budget), whole, atol=1e-5, rtol=1e-5)

    samples = length * codec.hop + budget % codec.hop  # a tail shorter than a frame gives no latent
    waveform = torch.randn(clips, 2, samples, generator=torch.Generator().manual_seed(budget))
    whole = codec.encode(waveform, frames=None)
    assert whole.shape == (clips, 4, length)
    torch.testing.assert_close(codec.encode(waveform, frames=budget), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pieces_of_the_golden_model_equal_the_whole(golden: Oobleck) -> None:
    latents = torch.randn(2, 64, 60, generator=torch.Generator().manual_seed(0))
    assert worst(golden.decode(latents, frames=40), golden.decode(latents, frames=None)) < 2e-5
    waveform = torch.randn(1, 2, 60 * 2048, generator=torch.Generator().manual_seed(1)) * 0.3
    assert worst(golden.encode(waveform, frames=40), golden.encode(waveform, frames=None)) < 2e-5


@pytest.mark.parametrize("strides", [(2,), (4,), (2, 4), (4, 2, 6)])
def test_the_overlap_covers_the_receptive_field_and_little_more(strides: tuple[int, ...]) -> None:
    codec = small(strides)
    middle, length = 60, 121
    latents = torch.randn(1, 4, length, requires_grad=True)
    codec.decode(latents, None)[..., middle * codec.hop : (middle + 1) * codec.hop].sum().backward()
    assert latents.grad is not None
    seen = (latents.grad[0].abs().sum(0).nonzero().flatten() - middle).abs().max().item()
    assert seen <= codec.decoder_reach <= seen + 2

    waveform = torch.randn(1, 2, length * codec.hop, requires_grad=True)
    codec.encode(waveform, frames=None)[..., middle].sum().backward()
    assert waveform.grad is not None
    touched = waveform.grad[0].abs().sum(0).nonzero().flatten().float() / codec.hop - middle
    seen = max(-touched.min().item(), touched.max().item() - 1)
    assert seen <= codec.encoder_reach <= seen + 2


@torch.no_grad()
def test_odd_strides_take_every_clip_whole() -> None:
    codec = small((3, 2))
    latents = torch.randn(2, 4, 40)
    torch.testing.assert_close(codec.decode(latents, frames=10), codec.decode(latents, frames=None))


@torch.no_grad()
def test_half_precision(golden: Oobleck, io: dict[str, Tensor]) -> None:
    half = copy.deepcopy(golden).to(torch.bfloat16)
    decoded = half.decode(io["latent_in"].bfloat16())
    assert decoded.dtype == torch.bfloat16
    assert (decoded.float() - io["decoded"]).abs().mean() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        mixed = golden.decode(io["latent_in"])
    assert (mixed.float() - io["decoded"]).abs().mean() < 0.05


def test_gradients_reach_every_parameter(golden: Oobleck, io: dict[str, Tensor]) -> None:
    codec = copy.deepcopy(golden)
    codec.decode(codec.encode(io["waveform"])).square().mean().backward()
    assert all(parameter.grad is not None for parameter in codec.parameters())


@given(data=st.data())
def test_every_wrong_tensor_is_named(data: st.DataObject) -> None:
    tensors = small((2,)).official_state("autoencoder.")
    names = st.sampled_from(sorted(tensors))
    missing = data.draw(st.sets(names, max_size=6))
    misshaped = data.draw(st.sets(names, max_size=6)) - missing
    extra = {f"autoencoder.{name}" for name in data.draw(st.sets(st.sampled_from(["x", "encoder.y", "decoder.9.z"])))}
    for name in missing:
        del tensors[name]
    for name in misshaped:
        tensors[name] = tensors[name][None]
    tensors |= {name: torch.zeros(1) for name in extra}
    if not missing | misshaped | extra:
        return
    with pytest.raises(CheckpointError) as caught:
        Oobleck.of(tensors)
    for name in missing | misshaped | extra:
        assert name.removeprefix("autoencoder.") in str(caught.value)


def test_a_dict_without_an_autoencoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no autoencoder; expected names such as .*found model\.model\.x"):
        Oobleck.of({"model.model.x": torch.zeros(1)})
