"""What the page asks of the codec: sentences to latents, latents to sentences, and what lies between two of them.

Every answer is strict JSON. Bad input is status 400 and {"error": one line, "field": where it came in}.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from torch import Tensor

from inscape.codec import MOST_SEED, OutOfGrammar, VisualCodec
from inscape.data.scenes import WORDS
from inscape.explore.answers import bands, differences, edit_between, readings, scene_of, statistics
from inscape.explore.batching import Batcher, Kind
from inscape.explore.strict_json import answer_in_json
from inscape.explore.wire import Refused, fields_of, latent_from, latent_to, number_from, sentence_from
from inscape.studies.visual.paraphrasing import Candidate, meaning_of

__all__ = ["CodecAnswers", "codec_routes"]

MOST_STEPS = 33  # of an interpolation
DRAWN_STEPS, MOST_DRAWN_STEPS = 30, 100  # from noise to a latent
NO_DRAWING = "the latent prior beside these weights cannot be drawn from; start the page again to see why"
MOST_SHOWN = 20  # paraphrases at a time
ROUNDS = 2  # of samples: 12 for each that is asked for

MOST_KNOWN = 512  # latents whose reading is remembered: about 30 kB each

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Read(NamedTuple):
    """What one latent says, its statistics, and its embedding."""

    reading: dict[str, Any]
    statistics: dict[str, Any]
    z_Z: Tensor


@final
class CodecAnswers:
    """The codec behind the page: each method takes a request's fields and gives its answer."""

    def __init__(self, codec: VisualCodec, about: str) -> None:
        self._codec, self._about = codec, about
        self._batcher = Batcher(
            {
                "encode": Kind(self._encode_all, 64),
                "read": Kind(self._read_all, 64),
                "paraphrase": Kind(self._paraphrase_all, 16),
                "sample": Kind(self._sample_all, 1),
            }
        )
        self._known: OrderedDict[bytes, Read] = OrderedDict()

    def close(self) -> None:
        """Stop the worker."""
        self._batcher.close()

    def codec(self) -> dict[str, Any]:
        """What is loaded: the latent's shape, the photograph bands, the words of the grammar."""
        return {
            "weights": self._about,
            "shape": list(self._codec.latent_shape),
            "patch": self._codec.trained.model.reader.side,
            "bands": bands(*self._codec.latent_shape[1:]),
            "grammar": self._codec.knows_grammar,
            "samples": self._codec.samples,
            "words": list(WORDS) if self._codec.knows_grammar else [],
        }

    async def encode(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A sentence's latent with its statistics, and what is read back from it."""
        sentence = sentence_from(fields, "sentence")
        latent_CHW, warning = await self._ask("encode", (sentence, "sentence"))
        reading, told, _ = await self._read(latent_CHW)
        return {
            "sentence": sentence,
            "latent": latent_to(latent_CHW),
            "warning": warning,
            "scene": scene_of(meaning_of(sentence)) if self._codec.knows_grammar else None,
            "statistics": told,
            "reading": reading,
            "difference": differences(self._codec.as_spelled(sentence), reading["sentence"]),
        }

    async def read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a latent says; beside another one, `original`, which words changed and the cosine of the two."""
        shape = self._codec.latent_shape
        latent_CHW = latent_from(fields, "latent", shape)
        now = await self._read(latent_CHW)
        answer: dict[str, Any] = {"reading": now.reading, "statistics": now.statistics}
        if "original" in fields:
            before = await self._read(latent_from(fields, "original", shape))
            answer["difference"] = differences(before.reading["sentence"], now.reading["sentence"])
            answer["cosine"] = _cosine(before, now)
        return answer

    async def paraphrase(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Other sentences of the same meaning with the cosine of each to the sentence, best first."""
        sentence = sentence_from(fields, "sentence")
        n = number_from(fields, "n", 5, 1, MOST_SHOWN)
        seed = number_from(fields, "seed", 0, 0, MOST_SEED)
        return await self._ask("paraphrase", (sentence, n, seed))

    async def compare(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Two sentences: both latents, what is read from them, the cosine, and which edit lies between them."""
        first, second = (sentence_from(fields, name) for name in ("first", "second"))
        encoded = await asyncio.gather(*(self._ask("encode", (fields[n], n)) for n in ("first", "second")))
        read = await asyncio.gather(*(self._read(latent_CHW) for latent_CHW, _ in encoded))
        known = self._codec.knows_grammar
        sides = [
            {
                "sentence": sentence,
                "latent": latent_to(latent_CHW),
                "warning": warning,
                "scene": scene_of(meaning_of(sentence)) if known else None,
                "reading": found.reading,
            }
            for sentence, (latent_CHW, warning), found in zip((first, second), encoded, read, strict=True)
        ]
        return {
            "cosine": _cosine(*read),
            "edit": edit_between(first, second) if known else "unread",
            "first": sides[0],
            "second": sides[1],
        }

    async def interpolate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What is read along the straight line between two sentences' latents."""
        for name in ("first", "second"):
            sentence_from(fields, name)
        steps = number_from(fields, "steps", 9, 2, MOST_STEPS)
        (start, _), (end, _) = await asyncio.gather(*(self._ask("encode", (fields[n], n)) for n in ("first", "second")))
        shares = [i / (steps - 1) for i in range(steps)]
        latents = [torch.lerp(start, end, share) for share in shares]
        read = await asyncio.gather(*(self._read(latent_CHW) for latent_CHW in latents))
        return {
            "steps": [
                {
                    "share": share,
                    "sentence": found.reading["sentence"],
                    "in_grammar": found.reading["in_grammar"],
                    "cosine_first": _cosine(found, read[0]),
                    "cosine_second": _cosine(found, read[-1]),
                }
                for share, found in zip(shares, read, strict=True)
            ]
        }

    async def sample(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A latent drawn out of noise, with its statistics and what it says; the same for one seed."""
        seed = number_from(fields, "seed", 0, 0, MOST_SEED)
        steps = number_from(fields, "steps", DRAWN_STEPS, 1, MOST_DRAWN_STEPS)
        latent_CHW = await self._ask("sample", (steps, seed))
        reading, told, _ = await self._read(latent_CHW)
        return {"latent": latent_to(latent_CHW), "statistics": told, "reading": reading}

    async def _ask(self, kind: str, item: Any) -> Any:
        return await asyncio.wrap_future(self._batcher.submit(kind, item))

    async def _read(self, latent_CHW: Tensor) -> Read:
        """What was read lately is not read again: the page compares each touch with one original."""
        key = latent_CHW.numpy().tobytes()
        found = self._known.get(key) or await self._ask("read", latent_CHW)
        self._known[key] = found
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return found

    # In the worker: lists of items to lists of answers.

    def _encode_all(self, items: list[tuple[str, str]]) -> Sequence[Any]:
        """Each (latent, warning), or the refusal of that sentence alone."""
        try:
            latent_NCHW = self._encoded([sentence for sentence, _ in items])
            return [(latent_CHW, self._codec.doubts(s)) for latent_CHW, (s, _) in zip(latent_NCHW, items, strict=True)]
        except ValueError as error:
            if len(items) > 1:  # one of them is too long: each is asked alone
                return [self._encode_all([item])[0] for item in items]
            field = items[0][1]
            return [Refused(str(error).replace("sentence 1", field), field)]

    def _encoded(self, sentences: list[str]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutOfGrammar)  # `doubts` says it of each sentence
            return self._codec.encode(sentences).as_subclass(Tensor)

    def _read_all(self, latents: list[Tensor]) -> Sequence[Any]:
        latent_NCHW = torch.stack(latents)
        z_NZ = self._codec.embed(latent_NCHW)
        return list(map(Read, readings(self._codec, latent_NCHW), statistics(latent_NCHW), z_NZ))

    def _paraphrase_all(self, items: list[tuple[str, int, int]]) -> Sequence[Any]:
        """Those that ask for as many with the same seed are sampled together, in a round or two and no more.

        What is no sentence of the grammar, as while it is being typed, is not searched for: it would take longest.
        """
        answers: list[Any] = [None] * len(items)
        alike: dict[tuple[int, int], list[int]] = {}
        for i, (sentence, n, seed) in enumerate(items):
            if sentence.strip() and self._codec.doubts(sentence):
                answers[i] = self._told(sentence, [], n)
            else:
                alike.setdefault((n, seed), []).append(i)
        for (n, seed), places in alike.items():
            found = self._paraphrase_alike([items[i][0] for i in places], n, seed)
            for i, answer in zip(places, found, strict=True):
                answers[i] = answer
        return answers

    def _paraphrase_alike(self, sentences: list[str], n: int, seed: int) -> list[Any]:
        try:
            found = self._codec.paraphrase_each(sentences, n, seed, rounds=ROUNDS)
        except ValueError as error:
            if len(sentences) > 1:  # one of them is too long: each is asked alone
                return [answer for sentence in sentences for answer in self._paraphrase_alike([sentence], n, seed)]
            return [Refused(str(error).replace("sentence 1", "sentence"), "sentence")]
        return [self._told(sentence, row, n) for sentence, row in zip(sentences, found, strict=True)]

    def _sample_all(self, items: list[tuple[int, int]]) -> Sequence[Any]:
        try:
            return [self._codec.sample(1, steps, seed).latents[0].as_subclass(Tensor) for steps, seed in items]
        except ValueError as error:  # of a prior that cannot be read it names the file, which is no visitor's business
            return [Refused(NO_DRAWING if self._codec.samples else str(error)) for _ in items]

    def _told(self, sentence: str, row: list[Candidate], n: int) -> dict[str, Any]:
        few = f"{len(row)} of the {n} paraphrases asked for were found" if len(row) < n else ""
        return {
            "paraphrases": [{"text": text, "cosine": round(cosine, 4)} for text, cosine in row],
            "warnings": [said for said in (self._codec.doubts(sentence), few) if said],
        }


def _cosine(one: Read, other: Read) -> float:
    return round(float((one.z_Z @ other.z_Z).clamp(-1, 1)), 6)


FIELDS = {
    "encode": ("sentence",),
    "read": ("latent", "original"),
    "paraphrase": ("sentence", "n", "seed"),
    "compare": ("first", "second"),
    "interpolate": ("first", "second", "steps"),
    "sample": ("seed", "steps"),
}


def codec_routes(answers: CodecAnswers) -> list[BaseRoute]:
    """GET /api/codec and POST /api/{encode, read, paraphrase, compare, interpolate, sample}."""

    async def codec(_: Request) -> Response:
        return answer_in_json(answers.codec())

    def endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
        answer: Answer = getattr(answers, name)

        async def post(request: Request) -> Response:
            return answer_in_json(await answer(fields_of(await request.body(), FIELDS[name])))

        return post

    return [Route("/api/codec", codec), *(Route(f"/api/{n}", endpoint(n), methods=["POST"]) for n in FIELDS)]
