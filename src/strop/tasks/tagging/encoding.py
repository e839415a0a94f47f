"""Sentences as tensors: vocabularies of words, characters and tags, and batches in packed order."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from strop.data.conll import Sentence
from strop.data.schemes import SCHEMES, Scheme, convert, split_tag
from strop.data.text import UNKNOWN, DataError

PAD = "<pad>"
#: Characters of a word that the model looks at. The longest word of CoNLL-2003 has 61.
LONGEST_WORD = 64


@dataclass(frozen=True)
class Vocabularies:
    """What a model knows; ids are positions.

    Attributes:
        words: lower-cased, `<unk>` first.
        rare: how many of `words`, the last ones, were seen once only in training and have no pre-trained
            vector: what stands for unknown words is learned from them.
        characters: `<pad>` and `<unk>` first.
        tags: in `scheme`.
        scheme: of `tags`.
        data_scheme: in which the data came, and a tagger answers.
    """

    words: tuple[str, ...]
    rare: int
    characters: tuple[str, ...]
    tags: tuple[str, ...]
    scheme: Scheme
    data_scheme: Scheme

    @classmethod
    def build(
        cls,
        sentences: Iterable[Sentence],
        scheme: Scheme,
        data_scheme: Scheme,
        with_vector: Iterable[str] = (),
    ) -> Self:
        """From training sentences; words `with_vector` are known although they may not occur there."""
        words: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        tags: set[str] = set()
        for sentence in sentences:
            words.update(word.lower() for word in sentence.words)
            for word in sentence.words:
                characters.update(word)
            tags.update(convert(sentence.tags, scheme))
        vectors = set(with_vector)
        rare = sorted(word for word, count in words.items() if count == 1 and word not in vectors)
        known = sorted({*words, *vectors} - {*rare, UNKNOWN}, key=lambda word: (-words[word], word))
        return cls(
            words=(UNKNOWN, *known, *rare),
            rare=len(rare),
            characters=(PAD, UNKNOWN, *sorted(characters)),
            tags=tuple(sorted(tags, key=lambda tag: (tag != "O", tag.partition("-")[::-1]))),
            scheme=scheme,
            data_scheme=data_scheme,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises ValueError or TypeError for anything else."""
        content = json.loads(text)
        names = [field.name for field in fields(cls)]
        if not isinstance(content, dict) or content.keys() != set(names):
            raise TypeError(f"an object with {', '.join(names)} is needed")
        for name in ("words", "characters", "tags"):
            values = content[name]
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise TypeError(f"{name}: a list of strings is needed")
            content[name] = tuple(values)
        for name in ("scheme", "data_scheme"):
            if content[name] not in SCHEMES:
                raise ValueError(f"{name}: {content[name]!r}; it must be one of {', '.join(SCHEMES)}")
        if type(content["rare"]) is not int or not 0 <= content["rare"] <= len(content["words"]):
            raise ValueError(f"rare: {content['rare']!r}; it must be a number of words")
        for tag in content["tags"]:
            split_tag(tag)
        return cls(**content)

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """The ids of `words`."""
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _character_ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.characters)}

    def encode(
        self, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]] | None = None
    ) -> "Encoded":
        """Sentences, none of them empty, and their tags (in any scheme) as tensors.

        Raises DataError for a tag that is not among `tags`.
        """
        words = [word for sentence in sentences for word in sentence]
        forms = {form: i for i, form in enumerate(dict.fromkeys(words))}
        find, unknown = self._character_ids.get, 1
        spelt = [[find(character, unknown) for character in form[:LONGEST_WORD]] for form in forms]
        characters = torch.zeros(len(forms), max(map(len, spelt), default=1), dtype=torch.int64)
        for row, ids in enumerate(spelt):
            characters[row, : len(ids)] = torch.tensor(ids)
        word_of_form = torch.tensor([self.word_ids.get(form.lower(), 0) for form in forms], dtype=torch.int64)
        form = torch.tensor([forms[word] for word in words], dtype=torch.int64)
        return Encoded(
            lengths=torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64),
            words=word_of_form[form],
            forms=form,
            characters=characters,
            form_lengths=torch.tensor([len(ids) for ids in spelt], dtype=torch.int64),
            tags=None if tags is None else self._encode_tags(tags),
        )

    def _encode_tags(self, tags: Sequence[Sequence[str]]) -> Tensor:
        ids = {tag: i for i, tag in enumerate(self.tags)}
        try:
            return torch.tensor(
                [ids[tag] for sentence in tags for tag in convert(sentence, self.scheme)], dtype=torch.int64
            )
        except KeyError as error:
            raise DataError(
                f"tags: {error.args[0]} does not occur in the training data, so it can never be learned"
            ) from None

    def decode(self, tags: Sequence[int], scheme: Scheme) -> list[str]:
        """The tags of one sentence, in `scheme`."""
        return convert([self.tags[i] for i in tags], scheme)


class Batch(NamedTuple):
    """Sentences in the order of `torch.nn.utils.rnn.PackedSequence`: longest first, all first words first.

    Attributes:
        words: ids `[N]` of all N words.
        forms: `[N]`: each word's row in `characters`.
        characters: ids `[distinct words, characters]`, zero behind a word's end.
        sizes: `[steps]`, on the CPU: sentences that have a word at each step.
        lengths: `[sentences]`: words of each, descending.
        tags: ids `[steps, sentences]`, zero behind a sentence's end; None if they are not known.
        order: `[sentences]`, on the CPU: their numbers in `Encoded`.
    """

    words: Tensor
    forms: Tensor
    characters: Tensor
    sizes: Tensor
    lengths: Tensor
    tags: Tensor | None
    order: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded sentences, one behind the other.

    Attributes:
        lengths: `[sentences]`: words of each.
        words, forms: `[words]`: ids, and rows of `characters`.
        characters: ids `[distinct words, characters]`, padded with zeros.
        form_lengths: `[distinct words]`: characters of each.
        tags: ids `[words]`.
    """

    lengths: Tensor
    words: Tensor
    forms: Tensor
    characters: Tensor
    form_lengths: Tensor
    tags: Tensor | None

    @cached_property
    def _starts(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths

    def batch(self, numbers: Tensor, device: torch.device | str = "cpu") -> Batch:
        """The sentences with these numbers `[sentences]`."""
        order = numbers[self.lengths[numbers].argsort(descending=True, stable=True)]
        lengths = self.lengths[order]
        step = torch.arange(int(lengths[0])).unsqueeze(1)
        inside = step < lengths
        at = (self._starts[order] + step)[inside]
        rows, forms = self.forms[at].unique(return_inverse=True)
        characters = self.characters[rows, : int(self.form_lengths[rows].max())]
        tags = None
        if self.tags is not None:
            tags = (
                torch.zeros(inside.shape, dtype=torch.int64).masked_scatter_(inside, self.tags[at]).to(device)
            )
        return Batch(
            self.words[at].to(device),
            forms.to(device),
            characters.to(device),
            inside.sum(1),
            lengths.to(device),
            tags,
            order,
        )


def bucketed(lengths: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Sentences in full batches of like length, in random order: numbers `[batches, batch]`.

    They are sorted by length with a little noise, so that other ones meet in every epoch. Fewer than
    `batch` sentences are left over, other ones in every epoch.
    """
    chosen = torch.randperm(len(lengths), generator=generator)[: len(lengths) // batch * batch]
    noisy = lengths[chosen] + 2 * torch.rand(len(chosen), generator=generator)
    batches = chosen[noisy.argsort()].view(-1, batch)
    return batches[torch.randperm(len(batches), generator=generator)]
