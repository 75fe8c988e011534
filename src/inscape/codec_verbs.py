"""The codec's verbs once their words are parsed: call the codec and print.

What the codec warns of goes to stderr, a line each, or with --json into the document, which then stands alone.
"""

from __future__ import annotations

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from inscape.codec import FewParaphrases, OutOfGrammar, VisualCodec
from inscape.codec_files import embed_to_file, encode_to_files, read_grammar, read_latents
from inscape.command_line import flush_stdout

__all__ = ["decode_verb", "embed_verb", "encode_verb", "paraphrase_verb", "similarity_verb"]


def encode_verb(words: Namespace) -> None:
    """inscape encode TEXT... | --file F."""
    with _warned() as warned:
        said = encode_to_files(words.texts, words.file, words.weights, words.out, words.png, strict=words.strict)
    print(said)
    _say(warned)


def decode_verb(words: Namespace) -> None:
    """inscape decode LATENTS [--grammar FILE]."""
    latent_BCHW = read_latents(words.latents)
    grammar = None if words.grammar is None else read_grammar(words.grammar)
    for text in VisualCodec.from_pretrained(words.weights).decode(latent_BCHW, grammar=grammar):
        print(" ".join(text.split()))  # one sentence a line, even of a decoder that says line ends


def paraphrase_verb(words: Namespace) -> None:
    """inscape paraphrase TEXT."""
    codec = VisualCodec.from_pretrained(words.weights)
    with _warned() as warned:
        found = codec.paraphrase(words.text, words.n)
        z_BZ = codec.embed([words.text, *found])
    if words.json:
        cosines = (z_BZ[1:] @ z_BZ[0]).tolist()
        rows = [{"text": text, "cosine": cosine} for text, cosine in zip(found, cosines, strict=True)]
        _print_json({"sentence": words.text, "paraphrases": rows, "warnings": warned})
        return
    for text in found:
        print(" ".join(text.split()))
    _say(warned)


def embed_verb(words: Namespace) -> None:
    """inscape embed --file F --out z.npy."""
    with _warned() as warned:
        said = embed_to_file(words.file, words.weights, words.out)
    print(said)
    _say(warned)


def similarity_verb(words: Namespace) -> None:
    """inscape similarity A B."""
    codec = VisualCodec.from_pretrained(words.weights)
    with _warned() as warned:
        cosine = codec.similarity(words.first, words.second)
    if words.json:
        _print_json({"first": words.first, "second": words.second, "cosine": cosine, "warnings": warned})
        return
    print(f"{cosine:.4f}")
    _say(warned)


@contextmanager
def _warned() -> Iterator[list[str]]:
    """What the codec warns of inside, in words and once each; other warnings go their usual way afterwards."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        for kind in (OutOfGrammar, FewParaphrases):
            warnings.simplefilter("always", kind)
        yield said
    for warning in caught:
        if issubclass(warning.category, OutOfGrammar | FewParaphrases):
            if str(warning.message) not in said:
                said.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _say(warned: list[str]) -> None:
    flush_stdout()
    for line in warned:
        print(f"inscape: {' '.join(line.split())}", file=sys.stderr)


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=1, allow_nan=False))
