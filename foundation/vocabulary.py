"""Words the small text encoder knows, learned from the plans it was trained on."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ARTICLES = frozenset({"a", "an", "the", "of", "and", "in", "on"})
WORD = re.compile(r"\d+\.\d+|[a-z]+")


def words(text: str) -> list[str]:
    """Lower-case words and decimal numbers of a text, in order."""
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of known words; index 0 is padding.

    A plan becomes a fixed number of tokens: of each of its sections, the first `per_section` known words.
    common: words that every plan has; they carry no token, yet nobody needs to be warned about them.
    """

    known: tuple[str, ...]
    per_section: int = 4
    common: tuple[str, ...] = ()

    @classmethod
    def learn(
        cls, plans: Iterable[Sequence[str]], per_section: int = 4, least: int = 5, most: float = 0.95
    ) -> "Vocabulary":
        """Every word found in at least `least` plans but in less than a share `most` of them."""
        counts: Counter[str] = Counter()
        total = 0
        for sections in plans:
            total += 1
            counts.update({word for text in sections for word in words(text)})
        frequent = {word for word, count in counts.items() if count >= most * total}
        known = (word for word, count in counts.items() if count >= least and word not in frequent)
        return cls(tuple(sorted(known)), per_section, tuple(sorted(frequent)))

    def __len__(self) -> int:
        return len(self.known) + 1

    def tokens(self, sections: Sequence[str]) -> list[int]:
        """Token indices, len(sections) * per_section of them."""
        index = {word: i + 1 for i, word in enumerate(self.known)}
        out: list[int] = []
        for text in sections:
            found = [index[w] for w in words(text) if w in index][: self.per_section]
            out += found + [0] * (self.per_section - len(found))
        return out

    def unknown(self, text: str, ignore: frozenset[str] = ARTICLES) -> list[str]:
        """Words of a text that carry no token, apart from articles and the like."""
        return [w for w in dict.fromkeys(words(text)) if w not in {*self.known, *self.common, *ignore}]
