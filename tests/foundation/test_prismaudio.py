"""The released model through its public interface: numbers of the original, files in and out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundation import checkpoint
from foundation.conditioners import resample_time
from foundation.conditions import Conditions
from foundation.errors import CheckpointError, SamplingError
from foundation.flat import VAE_PREFIXES, read_flat, write_flat
from foundation.prismaudio import PrismAudio, ReleasedConditions, load
from tests.foundation.conftest import read_json, read_tensors
from tests.foundation.released import flat_state, vae_state
from tests.foundation.test_dit_golden import CASES, worst


@pytest.fixture(scope="module", params=[".ckpt", ".safetensors"])
def model_a(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PrismAudio:
    path = tmp_path_factory.mktemp("release") / f"prismaudio{request.param}"
    write_flat(path, flat_state("a"))
    return load(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrismAudio]:
    folder = tmp_path_factory.mktemp("models")
    for name in "ab":
        write_flat(folder / f"{name}.ckpt", flat_state(name, vae=False))
    return {name: load(folder / f"{name}.ckpt") for name in "ab"}


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return read_tensors("dit_inputs.safetensors")


def features(inputs: dict[str, Tensor], clip: str, batch: int) -> tuple[Tensor, list[Tensor], Tensor]:
    lengths = read_json("dit_meta.json")["clips"][clip]
    video = torch.stack([inputs[f"item{i}.video_features"][: lengths["video"]] for i in range(batch)])
    sync = torch.stack([inputs[f"item{i}.sync_features"][: lengths["sync"]] for i in range(batch)])
    return video, [inputs[f"item{i}.text_features"] for i in range(batch)], sync


@pytest.mark.parametrize(("name", "clip", "batch"), CASES)
@torch.no_grad()
def test_golden_velocity(models, inputs, name: str, clip: str, batch: int) -> None:
    outputs, model = read_tensors(f"dit_{name}_outputs.safetensors"), models[name]
    conditions = model.conditions(*features(inputs, clip, batch))
    x, t = inputs[f"{clip}.x"][:batch], inputs["t"][:batch]
    assert worst(model.velocity(x, t, conditions), outputs[f"{clip}.b{batch}.velocity"]) < 5e-5
    assert worst(model.velocity(x, t, conditions, cfg_scale=5.0), outputs[f"{clip}.b{batch}.velocity_cfg5"]) < 2e-4
    if batch == 2:
        for part in ("video", "text", "sync"):
            assert worst(getattr(conditions, part), outputs[f"{clip}.b2.cond.{part}_features"]) < 2e-5


@torch.no_grad()
def test_a_padded_tensor_is_a_list_of_texts(models, inputs) -> None:
    video, text, sync = features(inputs, "9s", 2)
    padded = torch.nn.utils.rnn.pad_sequence(text, batch_first=True)
    model = models["a"]
    listed, stacked = model.conditions(video, text, sync), model.conditions(list(video), padded, list(sync))
    for part in ("video", "text", "sync", "sync_tokens"):
        assert torch.equal(getattr(listed, part), getattr(stacked, part))
    assert not listed.text[0, len(text[0]) :].any()


@torch.no_grad()
def test_one_noise_level_is_each_ones(models, inputs) -> None:
    model, conditions = models["a"], models["a"].conditions(*features(inputs, "9s", 2))
    x = inputs["9s.x"]
    as_number = model.velocity(x, 0.3, conditions)
    assert torch.equal(as_number, model.velocity(x, torch.tensor(0.3), conditions))
    assert worst(as_number, model.velocity(x, torch.tensor([0.3, 0.3]), conditions)) < 1e-5


@pytest.mark.parametrize(("seconds", "latent", "released"), [(5.0, 108, 100), (3.3, 71, 64), (12.0, 258, 258)])
@torch.no_grad()
def test_any_length_is_interpolated_once(models, seconds: float, latent: int, released: int) -> None:
    """Other lengths equal the golden ones' arithmetic with sync brought straight from its tokens to the latents."""
    model = models["a"]
    tokens = 8 * ((int(25 * seconds) - 16) // 8 + 1)
    generator = torch.Generator().manual_seed(1)
    sync = torch.randn(2, tokens, 768, generator=generator)
    video = torch.randn(2, int(4 * seconds), 1024, generator=generator)
    text = torch.randn(2, 9, 1024, generator=generator)
    x = torch.randn(2, 64, latent, generator=generator)
    conditions = model.conditions(video, text, sync)
    assert conditions.sync.shape[1] == int(194 * tokens / 216) == released
    direct = model.flow.condition(Conditions(video, text, sync), latent)
    assert torch.equal(conditions.at(latent).sync, direct.sync)
    velocity = model.velocity(x, 0.5, conditions, cfg_scale=5.0)
    assert worst(velocity, model.flow.velocity(x, 0.5, model.flow.prepare(direct, latent, 5.0))) < 1e-6
    assert torch.isfinite(velocity).all()
    if latent != released:
        twice = model.velocity(x, 0.5, Conditions(conditions.video, conditions.text, conditions.sync), cfg_scale=5.0)
        assert worst(velocity, twice) > 1e-4


@torch.no_grad()
def test_legacy_null_sync(models, inputs, tmp_path: Path) -> None:
    """The demo's conditions: nothing of the sync features is left, the learned empty feature stands in each frame."""
    model = models["a"]
    video, text, sync = features(inputs, "9s", 1)
    legacy = model.conditions(video, text, sync, legacy_null_sync=True)
    other = model.conditions(video, text, sync + 1, legacy_null_sync=True)
    x = inputs["9s.x"][:1]
    expected = model.flow.dit.empty_sync_feat.expand(1, 194, -1)
    assert torch.equal(legacy.sync, expected)
    assert torch.equal(model.velocity(x, 0.4, legacy, 5.0), model.velocity(x, 0.4, other, 5.0))
    real = model.conditions(video, text, sync)
    by_hand = Conditions(real.video, real.text, expected)
    assert worst(model.velocity(x, 0.4, legacy, 5.0), model.velocity(x, 0.4, by_hand, 5.0)) < 1e-6
    assert worst(model.velocity(x, 0.4, legacy, 5.0), model.velocity(x, 0.4, real, 5.0)) > 1e-2
    path = tmp_path / "prismaudio.ckpt"
    write_flat(path, flat_state("a", vae=False))
    assert torch.equal(load(path, legacy_null_sync=True).conditions(video, text, sync).sync, expected)


@torch.no_grad()
def test_conditions_can_be_chosen_repeated_and_joined(models, inputs) -> None:
    model = models["a"]
    conditions = model.conditions(*features(inputs, "8s", 2))
    x = torch.randn(2, 64, 40, generator=torch.Generator().manual_seed(0))
    whole = model.velocity(x, 0.5, conditions)
    joined = ReleasedConditions.cat([conditions[:1], conditions[1:]])
    assert torch.equal(model.velocity(x, 0.5, joined.to("cpu")), whole)
    repeated = model.velocity(x.repeat_interleave(2, 0), 0.5, conditions.repeat_interleave(2))
    assert worst(repeated[::2], whole) < 1e-5
    assert worst(conditions.at(40).sync, resample_time(conditions.sync_tokens, 40)) == 0


@torch.no_grad()
def test_golden_autoencoder(model_a: PrismAudio) -> None:
    io = read_tensors("vae_a_io.safetensors")
    assert worst(model_a.encode(io["waveform"]), io["encoder_mean"]) < 2e-5
    assert worst(model_a.encode(io["waveform"], io["bottleneck_noise"]), io["sampled_latent"]) < 2e-5
    assert worst(model_a.decode(io["latent_in"]), io["decoded"]) < 1e-4


def same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(actual) == list(expected) and all(
        actual[n].dtype == expected[n].dtype and actual[n].numpy().tobytes() == expected[n].numpy().tobytes()
        for n in expected
    )


@pytest.mark.parametrize("vae", [True, False])
@pytest.mark.parametrize("source", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("target", [".ckpt", ".safetensors"])
def test_the_same_flat_dict_is_written_back(tmp_path: Path, source: str, target: str, vae: bool) -> None:
    state = flat_state("a", vae)
    state["model.model.timestep_features.weight"] = state["model.model.timestep_features.weight"].half()
    write_flat(tmp_path / f"in{source}", state)
    model = load(tmp_path / f"in{source}")
    assert (model.codec is not None) == vae
    model.save(tmp_path / f"out{target}")
    assert same(read_flat(tmp_path / f"out{target}"), state)
    assert same(load(tmp_path / f"out{target}").state(), state)


@pytest.mark.parametrize("prefix", VAE_PREFIXES)
def test_an_autoencoder_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    state = flat_state("a", vae=False) | vae_state(prefix)
    write_flat(tmp_path / "prismaudio.ckpt", state)
    model = load(tmp_path)
    assert model.codec is not None
    assert same(model.state(), state)


def test_the_file_can_be_overwritten_by_the_model_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "prismaudio.ckpt"
    write_flat(path, flat_state("a"))
    model = load(path)
    model.save(path)
    model.save(path)
    assert same(read_flat(path), flat_state("a"))


def test_changed_weights_are_written(tmp_path: Path) -> None:
    path = tmp_path / "prismaudio.ckpt"
    write_flat(path, flat_state("a"))
    model = load(path)
    assert model.codec is not None
    with torch.no_grad():
        model.flow.dit.transformer.gate.fill_(3)
        dict(model.codec.decoder.named_parameters())["conv2.weight_g"].fill_(4)
    model.save(tmp_path / "changed.safetensors")
    read = read_flat(tmp_path / "changed.safetensors")
    changed = [name for name, tensor in flat_state("a").items() if not torch.equal(read[name], tensor)]
    assert changed == ["model.model.transformer.gate", "pretransform.model.decoder.layers.7.weight_g"]


def test_a_separate_autoencoder(tmp_path: Path) -> None:
    """A folder takes vae.ckpt over the model file's own; a named file takes its own first."""
    write_flat(tmp_path / "prismaudio.ckpt", flat_state("a", vae=False))
    other = {name: tensor + 1 for name, tensor in vae_state("autoencoder.").items()}
    write_flat(tmp_path / "vae.ckpt", other, key="state_dict")

    def first(model: PrismAudio) -> Tensor:
        assert model.codec is not None
        return model.codec.official_state("autoencoder.")["autoencoder.encoder.layers.0.bias"]

    expected = other["autoencoder.encoder.layers.0.bias"]
    model = load(tmp_path)
    assert torch.equal(first(model), expected)
    assert torch.equal(first(load(tmp_path / "prismaudio.ckpt")), expected)
    model.save(tmp_path / "bare.ckpt")
    assert same(read_flat(tmp_path / "bare.ckpt"), flat_state("a", vae=False))
    model.save(tmp_path / "merged.ckpt", vae=True)
    assert list(read_flat(tmp_path / "merged.ckpt")) == list(flat_state("a"))

    write_flat(tmp_path / "prismaudio.ckpt", flat_state("a"))
    assert torch.equal(first(load(tmp_path)), expected)
    assert torch.equal(first(load(tmp_path / "prismaudio.ckpt")), expected - 1)
    load(tmp_path / "prismaudio.ckpt").save(tmp_path / "without.ckpt", vae=False)
    assert same(read_flat(tmp_path / "without.ckpt"), flat_state("a", vae=False))


def test_a_runs_checkpoint_finds_the_releases_autoencoder(tmp_path: Path) -> None:
    release, run = tmp_path / "release", tmp_path / "run"
    write_flat(release / "prismaudio.ckpt", flat_state("a", vae=False))
    write_flat(release / "vae.ckpt", vae_state("autoencoder."), key="state_dict")
    checkpoint.save(run / "model.safetensors", load(release).flow, {"release": str(release)})
    model = load(run / "model.safetensors")
    assert model.codec is not None
    assert model.state().keys() == flat_state("a", vae=False).keys()


@given(data=st.data())
@settings(max_examples=10)
def test_wrong_tensors_of_model_and_autoencoder_are_named_at_once(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = flat_state("b")
    names = st.sampled_from(sorted(state))
    missing = data.draw(st.sets(names, min_size=1, max_size=6))
    misshaped = data.draw(st.sets(names, max_size=6)) - missing
    extra = data.draw(st.sets(st.sampled_from(["model.x", "pretransform.model.y", "pretransform.z", "optimizer.w"])))
    kept = {n: t[..., None] if n in misshaped else t for n, t in state.items() if n not in missing}
    path = tmp_path_factory.mktemp("wrong") / "prismaudio.ckpt"
    write_flat(path, kept | {name: torch.zeros(1) for name in extra})
    with pytest.raises(CheckpointError) as caught:
        load(path)
    for name in missing | misshaped | extra:
        assert name.removeprefix("pretransform.model.") in str(caught.value)


def test_an_autoencoder_of_another_size_is_refused(tmp_path: Path) -> None:
    from foundation.oobleck import Oobleck

    write_flat(tmp_path / "prismaudio.ckpt", flat_state("a", vae=False))
    small = Oobleck(channels=5, width=4, multiples=(1,), strides=(2,))
    write_flat(tmp_path / "vae.safetensors", small.official_state("autoencoder."))
    with pytest.raises(CheckpointError, match=r"latents of 64 channels, but its autoencoder has 5"):
        load(tmp_path)


def test_dimensions_that_do_not_fit_are_refused(models, model_a: PrismAudio, inputs) -> None:
    model = models["a"]
    video, text, sync = features(inputs, "9s", 2)
    for wrong, message in (
        ((video[..., :9], text, sync), r"video features must be \(B, tokens, 1024\)"),
        ((video, text[0], sync), r"text features must be .* got \[\(13, 1024\)\]"),
        ((video, [], sync), "an empty list"),
        ((video, text, [sync[0], sync[1, :200]]), r"of \[200, 216\] tokens"),
        ((video, text[:1], sync), r"of \[2, 1, 2\] clips"),
    ):
        with pytest.raises(SamplingError, match=message):
            model.conditions(*wrong)
    conditions = model.conditions(video, text, sync)
    with pytest.raises(SamplingError, match=r"A state is \(B, 64, L\)"):
        model.velocity(inputs["9s.x"][:, :3], 0.5, conditions)
    with pytest.raises(SamplingError, match="One noise level"):
        model.velocity(inputs["9s.x"], torch.ones(3), conditions)
    with pytest.raises(SamplingError, match="3 states came with conditions of 2 clips"):
        model.velocity(torch.zeros(3, 64, 194), 0.5, conditions)
    with pytest.raises(CheckpointError, match="without an autoencoder"):
        model.decode(torch.zeros(1, 64, 2))
    with pytest.raises(SamplingError, match="at least 2048 samples"):
        model_a.encode(torch.zeros(1, 2, 2047))
    with pytest.raises(SamplingError, match=r"Latents are \(B, 64, L\)"):
        model_a.decode(torch.zeros(64, 2))


def test_without_an_autoencoder_diffusers_stays_unloaded(tmp_path: Path) -> None:
    write_flat(tmp_path / "prismaudio.ckpt", flat_state("b", vae=False))
    program = "import sys, foundation.prismaudio as p; p.load(sys.argv[1]); sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 0
