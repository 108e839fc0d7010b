"""T5-Gemma's encoder: one vector per token of a text.

Sources: Zhang et al. 2025 (arXiv:2504.06225) as transformers has it; how PrismAudio uses it: FunAudioLLM/ThinkSound,
branch prismaudio, data_utils/v2a_utils/feature_utils_288.py (last hidden state, nothing cut off). That code takes
transformers' default attention, which leaves out the cap on attention logits; so does this, since the released model
was trained on such features.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoderModel

from foundation.errors import CheckpointError
from foundation.pretrained import load_part, read_config

log = logging.getLogger(__name__)


class T5Gemma:
    """The encoder of a sequence-to-sequence checkpoint and its tokeniser; the decoder's weights are not loaded.

    max_tokens: texts beyond it are cut, with a warning; None keeps them whole, as the released features have them.
    """

    def __init__(self, model: T5GemmaEncoderModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None):
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_tokens: int | None = None,
    ) -> "T5Gemma":
        """A saved T5GemmaForConditionalGeneration with its tokeniser. Raises CheckpointError."""
        config = read_config(folder, ("t5gemma",))
        config.is_encoder_decoder = False
        model = load_part(
            T5GemmaEncoderModel, folder, config, ignored=("model.decoder.", "decoder.", "lm_head."), dtype=dtype
        )
        # Without its files transformers would make up an empty tokeniser.
        if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            raise CheckpointError(f"{folder} has no tokeniser: expected tokenizer.json or tokenizer.model in it.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"The tokeniser in {folder} cannot be loaded: {error}") from error
        if len(tokenizer) > (known := model.encoder.config.vocab_size):
            raise CheckpointError(f"The tokeniser in {folder} has {len(tokenizer)} tokens, the model only {known}.")
        return cls(model.to(device), tokenizer, max_tokens)  # pyright: ignore[reportArgumentType]

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.model.encoder.config.hidden_size

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens that the tokeniser adds, cut at `max_tokens`."""
        if not texts:
            return []
        ids = [list(row) for row in self.tokenizer(list(texts), padding=False, truncation=False)["input_ids"]]
        if empty := [text for text, row in zip(texts, ids, strict=True) if not row]:
            raise CheckpointError(f"The tokeniser of T5-Gemma gives no token for {empty[0]!r}; give a text.")
        cut = [len(row) for row in ids if self.max_tokens is not None and len(row) > self.max_tokens]
        if cut:
            log.warning(
                "%d of %d texts were cut at %d tokens (the longest had %d); raise max_tokens to keep them whole.",
                len(cut),
                len(ids),
                self.max_tokens,
                max(cut),
            )
        return [row[: self.max_tokens] for row in ids]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 8) -> list[Tensor]:
        """(L_i, width) float32 on the CPU for each text, L_i being its number of tokens.

        Only texts of equal length share a batch of up to `batch`, so nothing is padded and no text's features depend on
        the others.
        """
        ids = self.tokens(texts)
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(ids):
            by_length[len(row)].append(index)
        device = next(self.model.parameters()).device
        features: dict[int, Tensor] = {}
        for group in by_length.values():
            for first in range(0, len(group), batch):
                members = group[first : first + batch]
                rows = torch.tensor([ids[i] for i in members], device=device)
                states = self.model(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
                features.update(zip(members, states.float().cpu(), strict=True))
        return [features[i] for i in range(len(ids))]
