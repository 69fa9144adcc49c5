"""Tokenizers of `transformers` and `tokenizers`; both are imported when one is used, never before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from .plain import ByteTokenizer, CharTokenizer, WordTokenizer

EOS = "<eos>"


class TransformersTokenizer:
    """A tokenizer of `transformers`, or a bare `tokenizers.Tokenizer`, seen through this project's Protocol.

    `eos` names the token that ends a text where the tokenizer has none of its own.
    """

    def __init__(self, tokenizer: Any, eos: str | None = None) -> None:
        self.tokenizer = _fast(tokenizer, eos)
        if eos is not None and eos not in self.tokenizer.get_vocab():
            raise ValueError(f"eos={eos!r} is not a token of this tokenizer; name one of its tokens, or add it: tokenizer.add_special_tokens(...).")
        if eos is not None:
            self.tokenizer = deepcopy(self.tokenizer)  # the caller's own keeps its EOS
            self.tokenizer.eos_token = eos
        if self.tokenizer.eos_token_id is None:
            raise ValueError("This tokenizer has no EOS token, so no text could end; name one of its tokens: TransformersTokenizer(tokenizer, eos='</s>').")
        self.eos_id = int(self.tokenizer.eos_token_id)
        self.vocab_size = max(self.tokenizer.get_vocab().values()) + 1

    @classmethod
    def from_folder(cls, folder: str | Path, eos: str | None = None) -> TransformersTokenizer:
        """Return the tokenizer that `save_pretrained` wrote into `folder`; never looks on the network."""
        from transformers import AutoTokenizer

        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give the one that the tokenizer was saved in (names of a hub are not looked up).")
        if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise FileNotFoundError(f"{folder} holds no tokenizer.json: transformers would make an empty tokenizer of it. Save the tokenizer there as well.")
        return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), eos)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS or EOS."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOS is left out, other special tokens are shown."""
        kept = [i for i in ids if i != self.eos_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, TransformersTokenizer) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.eos_id))

    def __repr__(self) -> str:
        return f"TransformersTokenizer(vocab_size={self.vocab_size}, eos_id={self.eos_id})"

    def _identity(self) -> tuple[int, Any]:
        rust = getattr(self.tokenizer, "backend_tokenizer", None)  # merges and all; a tokenizer in Python shows its vocabulary only
        return self.eos_id, rust.to_str() if rust is not None else self.tokenizer.get_vocab()


def train_bpe(texts: Iterable[str], vocab_size: int, eos: str = EOS) -> TransformersTokenizer:
    """Return a byte-level BPE tokenizer (Sennrich et al. 2016, as in GPT-2) trained on `texts`; id 0 is EOS."""
    import tokenizers as rust

    if isinstance(texts, str):
        raise TypeError(f"A tokenizer is trained on a list of texts, not on the one text {texts[:80]!r}; put it into a list.")
    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size} is too small; byte-level BPE begins with 256 bytes and EOS: give 257 or more.")
    tokenizer = rust.Tokenizer(rust.models.BPE())
    tokenizer.pre_tokenizer = rust.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = rust.decoders.ByteLevel()
    alphabet = sorted(rust.pre_tokenizers.ByteLevel.alphabet())
    trainer = rust.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[eos], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(list(texts), trainer)
    return TransformersTokenizer(tokenizer, eos)


def to_transformers(tokenizer: WordTokenizer | CharTokenizer | ByteTokenizer) -> Any:
    """Return a `PreTrainedTokenizerFast` with the same ids, so that a saved policy loads in plain transformers."""
    if isinstance(tokenizer, ByteTokenizer):
        return _fast(_of_bytes(tokenizer), EOS)
    if isinstance(tokenizer, CharTokenizer):
        return _fast(_of_characters(tokenizer), EOS)
    if not isinstance(tokenizer, WordTokenizer):
        raise TypeError(
            f"Only tokenizers of words, characters and bytes are translated, not {type(tokenizer).__name__}; a TransformersTokenizer has `.tokenizer`."
        )
    fast = _fast(_of_words(tokenizer), tokenizer.eos)
    if tokenizer.unk is not None:
        fast.unk_token = tokenizer.unk
    return fast


def _of_words(tokenizer: WordTokenizer) -> Any:
    import tokenizers as rust

    missing = "<no unknown words>"  # not in the vocabulary, so that an unknown word is an error there as it is here
    bare = rust.Tokenizer(rust.models.WordLevel({word: i for i, word in enumerate(tokenizer.words)}, unk_token=tokenizer.unk or missing))
    bare.pre_tokenizer = rust.pre_tokenizers.WhitespaceSplit()
    return bare


def _of_bytes(tokenizer: ByteTokenizer) -> Any:
    """Bytes are spelled by the characters that GPT-2 gives them: those that can be printed as they are, the others from U+0100 on."""
    import tokenizers as rust

    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printed]
    spelled = {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    bare = rust.Tokenizer(rust.models.BPE({spelled[byte]: byte for byte in range(256)} | {EOS: tokenizer.eos_id}, []))
    bare.pre_tokenizer = rust.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = rust.decoders.ByteLevel()
    return bare


def _of_characters(tokenizer: CharTokenizer) -> Any:
    import tokenizers as rust

    vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
    bare = rust.Tokenizer(rust.models.WordLevel(vocabulary | {EOS: tokenizer.eos_id}, unk_token="<no unknown characters>"))
    bare.pre_tokenizer = rust.pre_tokenizers.Split(rust.Regex(r"[\s\S]"), "isolated")
    bare.decoder = rust.decoders.Fuse()
    return bare


def _fast(tokenizer: Any, eos: str | None) -> Any:
    """Return a bare `tokenizers.Tokenizer` dressed for transformers; anything else as it is."""
    if not type(tokenizer).__module__.startswith("tokenizers"):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    if eos is not None and tokenizer.token_to_id(eos) is None:
        return tokenizer  # refused by the caller, who can say why
    choice = {} if eos is None else {"eos_token": eos}
    build: Any = PreTrainedTokenizerFast  # its constructor is not annotated
    return build(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **choice)
