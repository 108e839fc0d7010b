"""Text as audio-text models were trained on it: plain sentences, no markup, no headings, not longer than they read."""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from rewards_service.scores import Reference

Text = Literal["semantic", "plan"]

_HEADER = re.compile(
    r"\b(?:semantic|temporal|aesthetic|spatial)(?:[ -](?:cot|module|part|analysis|reasoning|description))?\s*:",
    re.IGNORECASE,
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Tokenizers read these as tokens of their own: ends of text, masks, padding.
    (re.compile(r"<\|[^|<>]*\|>|</?[A-Za-z][^<>]{0,40}>"), " "),
    (re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)"), r"\1"),  # links and images: what they say
    (re.compile(r"(?m)^\s*(?:#{1,6}|>|[-*+•]|\d{1,2}[.)])\s+"), ""),  # headings, quotations, lists
    (re.compile(r"[*`|]+|~~"), " "),  # emphasis, code, tables
    (re.compile(r"(?<!\w)_+|_+(?!\w)"), " "),
    (_HEADER, " "),
    (re.compile(r"!*\?[?!]*"), "?"),
    (re.compile(r"[.!]*![.!]*"), "."),
    (re.compile(r"\s+"), " "),
    (re.compile(r" +(?=[.,;:?])"), ""),
    (re.compile(r"^[\s.,;:-]+"), ""),
)


def clean(text: str) -> str:
    """A caption without control characters, markup, special tokens and the headings of a plan's four parts.

    No exclamation mark stays: to msclap its token is padding, and one in a caption moves the place from which the
    text's embedding is taken (msclap 1.3.4, models/clap.py: the tokens that are not 0 are counted). Cleaning twice
    changes nothing more.
    """
    text = "".join(c if c.isspace() or unicodedata.category(c)[0] != "C" else " " for c in text)
    while (again := _once(text)) != text:
        text = again
    return text


def _once(text: str) -> str:
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def chosen(reference: Reference, text: Text) -> str:
    """The semantic part of a reference's plan or the whole plan, as it was written; may be empty."""
    return reference.text if text == "semantic" else reference.plan


def fit(text: str, tokens: Callable[[str], int], limit: int) -> str:
    """The longest beginning of whole words that has at most `limit` tokens; of a single longer word, its beginning.

    tokens: how many a text has for the model, those it adds included.
    """
    if tokens(text) <= limit:
        return text
    words = text.split(" ")
    count = _largest(len(words), lambda n: tokens(" ".join(words[:n])) <= limit)
    if count:
        return " ".join(words[:count])
    return words[0][: _largest(len(words[0]), lambda n: tokens(words[0][:n]) <= limit)]


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, when all smaller ones do; 0 when 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
