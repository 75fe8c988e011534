"""Sentences to small pictures and back, in two lines.

    codec = VisualCodec.from_pretrained()
    latent_BCHW = codec.encode(["a red ball is on the blue block"])

and then `codec.decode(latent_BCHW)`, `codec.embed(...)`, `codec.paraphrase(...)`, `codec.interpolate(...)`; with the
weights of P6 also `codec.sample(...)`.

Legend: B sentences, C, H, W of the latent, Z width of the embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from inscape.codec_latents import Latents, checked_latents
from inscape.codec_sentences import checked_sentences, names_of, of_the_grammar, refuse_long, unknown_word
from inscape.core.program import program
from inscape.core.rundir import find_runs
from inscape.data.scenes.automaton import scene_automaton
from inscape.data.scenes.parser import read
from inscape.data.scenes.wording import write
from inscape.data.text_lines import letters_of
from inscape.data.tokenizer import normalise
from inscape.data.user_grammar import user_constraint
from inscape.export.hub import resolve_pretrained
from inscape.nn.constraint import TokenConstraint
from inscape.studies.visual.coding import Reading, embed, embed_sentences, say
from inscape.studies.visual.latent_prior import LatentPrior, load_prior, prior_beside, sampled
from inscape.studies.visual.model import CODEC_WEIGHTS, WEIGHTS, TextToLatent, TrainedCodec, encode, load
from inscape.studies.visual.paraphrasing import Candidate, paraphrases

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "MOST_SEED",
    "SHIPPED",
    "FewParaphrases",
    "Latents",
    "OutOfGrammar",
    "Sampled",
    "VisualCodec",
    "find_weights",
]

SHIPPED = Path(__file__).parent / "weights" / "visual-small.safetensors"
RUNS = Path("runs")
HOLDS = {"P5": CODEC_WEIGHTS, "P4": CODEC_WEIGHTS, "P3": CODEC_WEIGHTS, "P2": CODEC_WEIGHTS, "P1": WEIGHTS}

MOST_PARAPHRASES, MOST_DRAWN, MOST_STEPS, MOST_SEED = 100, 1000, 1000, 2**48
DRAWS = (4, 8, 16, 32, 64)  # samples for each paraphrase asked for, round after round until there are enough
MOST_SAMPLES = 2000  # of all rounds: seconds on two cores


class OutOfGrammar(UserWarning):
    """A sentence unlike those that the codec was trained on: it is encoded, and nobody knows how well."""


class FewParaphrases(UserWarning):
    """Fewer paraphrases were found than were asked for."""


class Sampled(NamedTuple):
    """Latents out of noise, and what the decoder reads off each."""

    latents: Latents
    sentences: list[str]


@final
class VisualCodec:
    """Trained weights of the visual study; latents are small pictures, (B, 6, 32, 32) at the default size.

    Weights of P1 are an encoder alone: they encode, and everything else is a ValueError that says what to give instead.
    Those of P2 under the plan's recipe also embed: their decoder is yet to be trained, and is not asked for sentences.
    """

    def __init__(self, model: TrainedCodec | TextToLatent, prior: Path | None = None) -> None:
        """`prior`: the file of the latent prior that was trained with it, read when it is first asked for."""
        self._model, self._prior_file = model, prior

    @classmethod
    def from_pretrained(cls, weights: Path | str | None = None) -> VisualCodec:
        """Load a run or exported folder, a weights file or `owner/name` on the hub; else what `find_weights` finds.

        ValueError in one line if there is none, or if the file is missing, damaged or foreign.
        """
        path = find_weights() if weights is None else resolve_pretrained(weights)
        return cls(load(path), prior_beside(path))

    @property
    def trained(self) -> TrainedCodec:
        """The model with its tokenizer; ValueError if the weights are an encoder alone."""
        if isinstance(self._model, TrainedCodec):
            return self._model
        raise ValueError(
            "these weights are an encoder of P1, which can only encode; give a run of P2 or later, or the file "
            f"{CODEC_WEIGHTS} of one"
        )

    @property
    def reading(self) -> TrainedCodec:
        """`trained`, to read sentences with; ValueError also if its decoder was never trained."""
        if self.trained.reads_back:
            return self.trained
        raise ValueError(
            "the decoder of these weights is not trained yet (recipe=plan trains it in P4): they encode and embed, and "
            f"cannot be read; give a run of P4 or later, or the file {CODEC_WEIGHTS} of one"
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        sizes = self._encoder.encoder.config
        return sizes.C, sizes.H, sizes.W  # pyright: ignore[reportAttributeAccessIssue,reportReturnType]

    @property
    def samples(self) -> bool:
        """Whether a latent prior lies beside the weights, so that `sample` can draw."""
        return self._prior_file is not None

    @cached_property
    def knows_grammar(self) -> bool:
        """Whether it was trained on the scene grammar, whose words and no others its tokenizer then has."""
        return of_the_grammar(self._model.tokenizer)

    def encode(
        self, sentences: Iterable[str], strict: bool = False, *, names: Sequence[str] | None = None
    ) -> Float[Latents, "B C H W"]:
        """Latents (B, C, H, W), float32 on the CPU, one for each sentence.

        A codec of the grammar forgives what the parser forgives: a capital first letter, a final stop. Of a sentence
        that is not in the grammar it warns (OutOfGrammar); `strict` makes that a ValueError that names the word.
        ValueError also on a bare string, on no sentence, and on one that is empty or too long for the encoder. names:
        what the messages call each sentence, such as the line of a file.
        """
        texts = self._asked(sentences, names, strict)
        return encode(self._encoder, texts).clone().as_subclass(Latents)  # no inference mode: gradients may follow

    def doubts(self, sentence: str) -> str:
        """Why nobody knows how well this sentence is encoded, in one line; empty if it is of the codec's grammar.

        A codec of other text has no grammar, and no doubts.
        """
        strangers = self._as_trained(checked_sentences([sentence]))[1]
        return f"{strangers[0]}; the quality of its latent is unknown" if strangers else ""

    def as_spelled(self, sentence: str) -> str:
        """The sentence as the corpus spells it, which is how it is encoded: a capital and a final stop are forgiven."""
        return self._as_trained(checked_sentences([sentence]))[0][0]

    def decode(
        self, latents: Float[Tensor, "B C H W"], constrained: bool = False, grammar: str | None = None
    ) -> list[str]:
        """What each latent says, free-running and greedy, from V alone (z is computed from it).

        constrained: only whole sentences of the scene grammar can be said; grammar: only those of one in Lark syntax,
        of which a sentence that does not end in time is cut (inscape.data.user_grammar). ValueError on anything but
        finite floats of shape (B, C, H, W); on `constrained` where the codec was trained on other text; on a grammar
        that is malformed or beyond the codec's tokens, or where the package llguidance is missing; and on both.
        """
        if constrained and grammar is not None:
            raise ValueError("constrained=True is the scene grammar, and grammar another one; give one of the two")
        if constrained and not self.knows_grammar:
            raise ValueError("constrained=True needs weights that were trained on the scene grammar; leave it out")
        constraint = self._grammar if constrained else None
        if grammar is not None:
            constraint = user_constraint(grammar, self._model.tokenizer)
        return say(self.reading, checked_latents(latents, self.latent_shape), Reading(constraint=constraint))

    def embed(
        self, sentences_or_latents: Iterable[str] | Float[Tensor, "B C H W"], *, names: Sequence[str] | None = None
    ) -> Float[Tensor, "B Z"]:
        """Embeddings of the meaning, of unit norm: their products are cosines. ValueErrors as in encode and decode.

        Of sentences no more latents are held than a batch has, however many there are. names: as in `encode`.
        """
        codec = self.trained
        if isinstance(sentences_or_latents, Tensor):
            return torch.from_numpy(embed(codec, checked_latents(sentences_or_latents, self.latent_shape)))
        return torch.from_numpy(embed_sentences(codec, self._asked(sentences_or_latents, names)))

    def similarity(self, a: str, b: str) -> float:
        """Cosine of two sentences' embeddings, -1 to 1."""
        z_BZ = self.embed([a, b])
        return float((z_BZ[0] @ z_BZ[1]).clamp(-1, 1))  # NaN stays NaN

    def interpolate(self, a: str, b: str, steps: int = 5) -> list[str]:
        """What is read along the straight line from the latent of `a` to that of `b`, ends included.

        steps: how many sentences, 2 to 1000.
        """
        _check_range("steps", steps, 2, MOST_STEPS)
        codec = self.reading
        start_CHW, end_CHW = self.encode([a, b]).as_subclass(Tensor)
        share_B111 = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
        return say(codec, torch.lerp(start_CHW, end_CHW, share_B111))

    def sample(self, n: int = 5, steps: int = 50, seed: int = 0, constrained: bool = False) -> Sampled:
        """`n` (1 to 1000) latents drawn out of noise by the latent prior, with what each says; the same for one seed.

        steps: from noise to a latent, 1 to 1000; 50 are as good as many. constrained: as in `decode`. ValueError where
        no prior lies beside the weights, or it is of another codec.
        """
        _check_range("n", n, 1, MOST_DRAWN)
        _check_range("steps", steps, 1, MOST_STEPS)
        _check_range("seed", seed, 0, MOST_SEED)
        latent_BCHW = sampled(self._prior, n, self.latent_shape, steps, seed)
        return Sampled(latent_BCHW.as_subclass(Latents), self.decode(latent_BCHW, constrained))

    def paraphrase(self, sentence: str, n: int = 5, seed: int = 0) -> list[str]:
        """`n` (1 to 100) distinct other sentences of the same meaning, best round trip first; the same for one seed.

        Where the parser can read the sentence its verdict on the meaning is final. Else it is the codec's own: the
        cosine of the two embeddings, 0.9 or more, which knows no better than the training did what means the same.
        Samples are drawn until there are enough; if there never are, it warns (FewParaphrases) and gives those.
        ValueError with weights of a text file whose decoder was not trained to reword: `training.mixture.paraphrases`
        above 0 trains it, on groups of paraphrases (.tsv).
        """
        _check_range("n", n, 1, MOST_PARAPHRASES)
        _check_range("seed", seed, 0, MOST_SEED)
        self._asked([sentence])
        (text,), (found,), drawn = self._paraphrased([sentence], n, seed)
        if len(found) < n:
            said = f"{len(found)} of the {n} paraphrases asked for were found in {drawn} samples of {text!r}"
            warnings.warn(said, FewParaphrases, stacklevel=2)
        return [candidate.text for candidate in found]

    def paraphrase_each(
        self, sentences: Iterable[str], n: int = 5, seed: int = 0, rounds: int = len(DRAWS)
    ) -> list[list[Candidate]]:
        """`paraphrase` of many sentences at once, each with the cosine of its round trip; silent where there are fewer.

        rounds: of sampling, 1 to 5, each twice as long as the last; fewer give an answer sooner. The samples of a
        sentence depend on those it is asked with: alone, in all rounds, it gives what `paraphrase` gives.
        """
        _check_range("n", n, 1, MOST_PARAPHRASES)
        _check_range("seed", seed, 0, MOST_SEED)
        _check_range("rounds", rounds, 1, len(DRAWS))
        return self._paraphrased(checked_sentences(sentences), n, seed, rounds)[1]

    def _paraphrased(
        self, sentences: list[str], n: int, seed: int, rounds: int = len(DRAWS)
    ) -> tuple[list[str], list[list[Candidate]], int]:
        """The sentences as the corpus spells them, their paraphrases, and how many samples of one were drawn."""
        codec = self.reading
        if not (self.knows_grammar or codec.rewords):
            raise ValueError(
                "these weights were trained on a text file, whose decoder has learned to read back and not to reword; "
                "paraphrase needs weights that were trained on the scene grammar, or on groups of paraphrases (.tsv) "
                "with training.mixture.paraphrases above 0"
            )
        constraint = self._grammar if self.knows_grammar else None
        texts, _ = self._as_trained(sentences)
        self._refuse_long(texts, names_of(len(texts)))
        found: list[dict[str, Candidate]] = [{} for _ in texts]
        drawn = 0
        for i, draws in enumerate(DRAWS[:rounds]):
            open_rows = [row for row, kept in enumerate(found) if len(kept) < n]
            if not open_rows or (drawn and drawn + draws * n > MOST_SAMPLES):
                break
            asked, ours = [texts[row] for row in open_rows], seed * len(DRAWS) + i
            drew = paraphrases(codec, asked, n, draws=draws, seed=ours, constraint=constraint)
            for row, new in zip(open_rows, drew, strict=True):
                found[row] |= {other.text: other for other in new if not self._same(other.text, texts[row])}
            drawn += draws * n
        return texts, [sorted(kept.values(), key=lambda c: -c.cosine)[:n] for kept in found], drawn

    def _same(self, text: str, sentence: str) -> bool:
        """Whether two texts are one sentence: to a text file also where they differ in case, blanks or signs alone."""
        return text == sentence or (not self.knows_grammar and letters_of(text) == letters_of(sentence))

    @property
    def _encoder(self) -> TextToLatent:
        return self._model.to_latent if isinstance(self._model, TrainedCodec) else self._model

    @cached_property
    def _prior(self) -> LatentPrior:
        if self._prior_file is None:
            raise ValueError(
                "there is no latent prior beside these weights, so nothing can be sampled; give a run of visual.P6"
            )
        return load_prior(self._prior_file, self.trained.model)

    @cached_property
    def _grammar(self) -> TokenConstraint:
        tokenizer = self._model.tokenizer
        return TokenConstraint(scene_automaton(tokenizer), tokenizer.vocab_size)

    def _asked(self, sentences: Iterable[str], names: Sequence[str] | None = None, strict: bool = False) -> list[str]:
        """The sentences as the corpus spells them, once all can be encoded; warns the caller's caller of strange ones.

        strict: what is strange is a ValueError.
        """
        found = checked_sentences(sentences, names)
        names = names_of(len(found), names)
        texts, strangers = self._as_trained(found)
        first = next(iter(strangers), 0)
        said = f"{names[first]}: {strangers[first]}" if strangers else ""
        if strict and strangers:
            raise ValueError(said)
        self._refuse_long(texts, names)
        if strangers:
            others = f", and that of {len(strangers) - 1} more" if len(strangers) > 1 else ""
            warnings.warn(f"{said}; the quality of its latent is unknown{others}", OutOfGrammar, stacklevel=3)
        return texts

    def _refuse_long(self, texts: Sequence[str], names: Sequence[str]) -> None:
        limit: int = self._encoder.encoder.config.max_length  # pyright: ignore[reportAttributeAccessIssue,reportAssignmentType]
        refuse_long(texts, names, self._model.tokenizer, limit)

    def _as_trained(self, sentences: Sequence[str]) -> tuple[list[str], dict[int, str]]:
        """The sentences as the corpus spells them, and by row what is strange about those that it cannot hold."""
        texts, strangers = [], {}
        for row, sentence in enumerate(sentences):
            try:
                texts.append(write(read(sentence)) if self.knows_grammar else normalise(sentence))
            except ValueError as error:
                texts.append(normalise(sentence))
                strangers[row] = unknown_word(sentence) or str(error)
        return texts, strangers


def find_weights() -> Path:
    """The weights shipped in the package; without them the newest finished visual run under ./runs of the last phase.

    P5, P4, P3 and P2 have a codec, P1 an encoder alone. ValueError in one line if there is none.
    """
    if SHIPPED.is_file():
        return SHIPPED
    for phase, name in HOLDS.items():
        runs = [run for run in find_runs(RUNS, "visual", phase) if run.finished and (run.path / name).is_file()]
        if runs:
            return max(runs, key=lambda run: run.path.name).path
    raise ValueError(
        f"there are no weights yet: give --weights RUN, or train some with: {program()} run visual --preset quick"
    )


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={value!r} is out of range; allowed: a whole number from {least} to {most}")
