"""T5-Gemma's encoder against the whole sequence-to-sequence model of the same folder."""

import logging
from pathlib import Path

import pytest
import torch

from foundation.errors import CheckpointError
from foundation.t5gemma import T5Gemma

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "a dog barks",
    "Semantic: a ball hits the floor. Temporal: at 0.4 s and at 1.2 s. Spatial: it moves from left to right.",
    "a cat",
    "rain on a roof, far away",
    "a dog barks",
]
WINDOW = 4


def make_tokenizer():
    """Byte-level pairs with a <bos> in front, as Gemma's tokeniser adds it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with grouped heads and one layer that only sees a window, with its tokeniser."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "vocab_size": 300,
        "sliding_window": WINDOW,
    }
    module = transformers.T5GemmaModuleConfig
    torch.manual_seed(0)
    config = transformers.T5GemmaConfig(encoder=module(**sizes), decoder=module(**sizes), vocab_size=300)
    model = transformers.T5GemmaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("t5gemma") / "t5gemma"
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def gemma(folder: Path) -> T5Gemma:
    return T5Gemma.load(folder)


def test_features_are_those_of_the_whole_models_encoder(folder: Path, gemma: T5Gemma):
    encoder = transformers.T5GemmaForConditionalGeneration.from_pretrained(folder).eval().get_encoder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = gemma.encode(TEXTS)
    for text, got in zip(TEXTS, features, strict=True):
        batch = tokenizer([text], return_tensors="pt", padding=True, truncation=False)
        with torch.no_grad():
            expected = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert got.shape == (batch["input_ids"].shape[1], gemma.width)
        torch.testing.assert_close(got, expected.last_hidden_state[0], atol=1e-6, rtol=0)
    assert len(features[1]) > 4 * WINDOW  # long enough for the window to matter


def test_no_text_depends_on_the_others(gemma: T5Gemma):
    together = gemma.encode(TEXTS, batch=3)
    for text, got in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(got, gemma.encode([text])[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(together[0], together[4], atol=1e-6, rtol=0)
    assert gemma.encode([]) == []


def test_only_the_encoder_is_loaded(folder: Path, gemma: T5Gemma):
    whole = transformers.T5GemmaForConditionalGeneration.from_pretrained(folder)
    count = sum(p.numel() for p in gemma.model.parameters())
    assert count == sum(p.numel() for p in whole.get_encoder().parameters()) < 0.55 * whole.num_parameters()


def test_long_texts_are_kept_whole_unless_capped(folder: Path, gemma: T5Gemma, caplog: pytest.LogCaptureFixture):
    whole = gemma.tokens([TEXTS[1] * 20])[0]
    assert whole == gemma.tokenizer(TEXTS[1] * 20)["input_ids"]
    assert not caplog.records
    capped = T5Gemma.load(folder, max_tokens=6)
    with caplog.at_level(logging.WARNING):
        features = capped.encode(TEXTS)
    assert [len(f) for f in features] == [min(6, len(ids)) for ids in gemma.tokens(TEXTS)]
    assert "of 5 texts were cut at 6 tokens" in caplog.text


def test_folders_that_do_not_fit_say_so(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        T5Gemma.load(tmp_path / "none")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError, match="has no tokeniser"):
        T5Gemma.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokeniser in .* cannot be loaded"):
        T5Gemma.load(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(200)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="tokens, the model only 300"):
        T5Gemma.load(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"weights in .* cannot be loaded"):
        T5Gemma.load(tmp_path)


def test_a_text_without_tokens_is_refused(folder: Path, gemma: T5Gemma):
    assert gemma.tokens([""]) == [[2]]  # <bos> alone
    bare = T5Gemma(gemma.model, gemma.tokenizer)
    bare.tokenizer = lambda texts, **_: {"input_ids": [[] for _ in texts]}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(CheckpointError, match="no token for ''"):
        bare.encode([""])
