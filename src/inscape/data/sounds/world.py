"""What a clip of the sound world holds, as a value, and what is said about it: exact, so that hearing can be marked.

Captions of recordings are opinions: a model may be right and score nothing. Here a scene is one group of equal sounds
(an event), or two events one after the other ("then") or at the same time ("while"), and a caption states all of it
and nothing else. `parse_caption` is the exact inverse of `caption`, in any wording; `attribute_f1` marks a generated
caption attribute by attribute, and takes one that leaves some out. `synthesis.py` makes the sound.

An event has exactly the attributes of its kind, and each has two values that lie far apart in sound:
    tone: length, pitch        rising tone, falling tone: length        buzz, noise burst: length, loudness
    click, thump: loudness     and all of them a count of one, two or three

Splits are by combination: the unordered pair of events is dealt by a fixed hash, whatever their relation, so that a
held-out clip holds two events that no training clip puts together. Scenes of one event all train.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, permutations, product
from typing import TypeVar

import numpy as np

from inscape.data.scenes.splits import mix

__all__ = [
    "ATTRIBUTES",
    "COUNTS",
    "EVENTS",
    "KINDS",
    "RELATIONS",
    "SPLITS",
    "WORDINGS",
    "Event",
    "SoundScene",
    "attribute_f1",
    "caption",
    "captions",
    "is_clear",
    "parse_caption",
    "sample_scene",
    "scenes",
    "split_of",
]

KINDS = {
    "tone": ("length", "pitch"),
    "rising tone": ("length",),
    "falling tone": ("length",),
    "buzz": ("length", "loudness"),
    "noise burst": ("length", "loudness"),
    "click": ("loudness",),
    "thump": ("loudness",),
}
ATTRIBUTES = {"length": ("short", "long"), "pitch": ("low", "high"), "loudness": ("quiet", "loud")}
COUNTS = (1, 2, 3)
RELATIONS = ("then", "while")
FORM_SHARES = {None: 0.1, "then": 0.5, "while": 0.4}  # of the clips drawn: one event alone, or two in a relation

SPLITS = ("train", "validation", "held_out")
VALIDATION_SHARE, HELD_OUT_SHARE = 0.1, 0.15  # of the pairs of events
_SALT = 0x50FA5  # never change it: other held-out pairs would void every published figure


@dataclass(frozen=True, slots=True)
class Event:
    """One to three equal sounds in a row. ValueError unless it has the attributes of its kind and no others."""

    kind: str
    count: int
    length: str | None = None
    pitch: str | None = None
    loudness: str | None = None
    code: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check("Event.kind", self.kind, tuple(KINDS))
        _check("Event.count", self.count, COUNTS)
        for name, values in ATTRIBUTES.items():
            _check(
                f"Event.{name} of a {self.kind}", getattr(self, name), values if name in KINDS[self.kind] else (None,)
            )
        object.__setattr__(self, "code", _CODES[self.kind, self.count, self.length, self.pitch, self.loudness])


def _keys() -> Iterator[tuple[str, int, str | None, str | None, str | None]]:
    for kind, owned in KINDS.items():
        lengths, pitches, levels = (values if name in owned else (None,) for name, values in ATTRIBUTES.items())
        yield from product((kind,), COUNTS, lengths, pitches, levels)


def _check(what: str, given: object, allowed: tuple[object, ...]) -> None:
    if isinstance(given, bool) or given not in allowed:
        raise ValueError(f"{what} is {given!r}; allowed: {', '.join(map(str, allowed))}")


_CODES = {key: code for code, key in enumerate(_keys())}
EVENTS = tuple(Event(*key) for key in _CODES)  # EVENTS[event.code] == event


@dataclass(frozen=True, slots=True)
class SoundScene:
    """One event alone (no second, no relation), or two. "while" has no order: its events are sorted by code."""

    first: Event
    second: Event | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        allowed = RELATIONS if self.second else (None,)
        _check(f"SoundScene.relation of {2 if self.second else 1} events", self.relation, allowed)
        if self.second and self.relation == "while" and self.first.code > self.second.code:
            first, second = self.second, self.first
            object.__setattr__(self, "first", first)
            object.__setattr__(self, "second", second)

    @property
    def events(self) -> tuple[Event, ...]:
        """The one or two events."""
        return (self.first, self.second) if self.second else (self.first,)

    @property
    def code(self) -> int:
        """An integer that no other scene has."""
        form = (None, *RELATIONS).index(self.relation)
        second = self.second.code if self.second else 0
        return (form * len(EVENTS) + self.first.code) * len(EVENTS) + second


def is_clear(scene: SoundScene) -> bool:
    """Whether it can be heard for what it is: two different kinds, and no quiet event under a loud one.

    Only such scenes are drawn. `parse_caption` reads the others too, since a model may say them.
    """
    if len({event.kind for event in scene.events}) < len(scene.events):
        return False
    return not (scene.relation == "while" and {event.loudness for event in scene.events} >= {"quiet", "loud"})


# ---------------------------------------------------------------------------------------------------------- captions

# Synonyms; wording w takes number w modulo their count, so that wording 0 is the canonical one throughout.
_COUNT_WORDS = {1: ("a", "one"), 2: ("two",), 3: ("three",)}
_VALUE_WORDS = {
    "short": ("short", "brief"),
    "long": ("long", "prolonged"),
    "low": ("low", "low-pitched"),
    "high": ("high", "high-pitched"),
    "quiet": ("quiet", "soft"),
    "loud": ("loud",),
}
_NOUNS = {  # (one, several)
    "tone": (("tone", "tones"), ("beep", "beeps")),
    "rising tone": (("rising tone", "rising tones"), ("tone that rises", "tones that rise")),
    "falling tone": (("falling tone", "falling tones"), ("tone that falls", "tones that fall")),
    "buzz": (("buzz", "buzzes"), ("buzzing sound", "buzzing sounds")),
    "noise burst": (("noise burst", "noise bursts"), ("burst of noise", "bursts of noise")),
    "click": (("click", "clicks"), ("tick", "ticks")),
    "thump": (("thump", "thumps"), ("thud", "thuds")),
}
_TEMPLATES = {  # A is the first event, B the second
    None: ("A", "there is A", "A can be heard", "the sound of A", "one hears A"),
    "then": ("A, then B", "A followed by B", "B after A", "first A, then B", "A and then B"),
    "while": ("A together with B", "A and B at the same time", "B along with A", "both A and B at once", "A over B"),
}
WORDINGS = 5
_LONGEST = 300  # characters; the longest caption has about 100


def _values(event: Event) -> tuple[str, ...]:
    return tuple(getattr(event, name) for name in KINDS[event.kind])


def _phrase(event: Event, wording: int) -> str:
    choices = [_COUNT_WORDS[event.count], *(_VALUE_WORDS[value] for value in _values(event))]
    nouns = _NOUNS[event.kind]
    noun = nouns[wording % len(nouns)][event.count > 1]
    return " ".join([*(words[wording % len(words)] for words in choices), noun])


def caption(scene: SoundScene, wording: int = 0) -> str:
    """The scene in words: "a long rising tone, then two loud clicks". ValueError unless 0 <= wording < WORDINGS."""
    _check("wording", wording, tuple(range(WORDINGS)))
    parts = {slot: _phrase(event, wording) for slot, event in zip("AB", scene.events, strict=False)}
    return re.sub(r"\b[AB]\b", lambda slot: parts[slot[0]], _TEMPLATES[scene.relation][wording])


def captions(scene: SoundScene) -> tuple[str, ...]:
    """All its wordings, the canonical one first: the references of a clip."""
    return tuple(caption(scene, wording) for wording in range(WORDINGS))


def _phrases(event: Event, values: tuple[str, ...]) -> Iterator[str]:
    """Every way to say an event with these of its values, in any order."""
    nouns = [noun[event.count > 1] for noun in _NOUNS[event.kind]]
    for order in permutations(_VALUE_WORDS[value] for value in values):
        yield from map(" ".join, product(_COUNT_WORDS[event.count], *order, nouns))


@cache
def _events_by_phrase() -> dict[str, Event]:
    """Every way to say every event, with all its attributes."""
    found: dict[str, Event] = {}
    for event in EVENTS:
        for phrase in _phrases(event, _values(event)):
            assert found.setdefault(phrase, event) is event, f"two events are said {phrase!r}"
    return found


@cache
def _stated_by_phrase() -> dict[str, frozenset[tuple[str, object]]]:
    """What every way to say an event states of it, attributes left out: "two clicks" says kind and count."""
    found: dict[str, frozenset[tuple[str, object]]] = {}
    for event in EVENTS:
        owned = KINDS[event.kind]
        for names in (some for count in range(len(owned) + 1) for some in combinations(owned, count)):
            stated = frozenset((name, getattr(event, name)) for name in ("kind", "count", *names))
            for phrase in _phrases(event, tuple(getattr(event, name) for name in names)):
                assert found.setdefault(phrase, stated) == stated, f"two things are said {phrase!r}"
    return found


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[,.;:]", " ", text.lower()).split())


@cache
def _patterns() -> tuple[tuple[str | None, re.Pattern[str]], ...]:
    """Each template with its slots as named groups; no template holds a special sign but its commas."""
    return tuple(
        (relation, re.compile(re.sub(r"\b([AB])\b", r"(?P<\1>.+?)", template.replace(",", ""))))
        for relation, templates in _TEMPLATES.items()
        for template in templates
    )


def parse_caption(text: str) -> SoundScene:
    """The scene that a caption states, in any wording; ValueError on anything else.

    Capitals, commas, stops and spaces are forgiven, words are not: each event needs all its attributes.
    """
    relation, events = _parsed(text, _events_by_phrase())
    return SoundScene(*events, relation=relation)


Said = TypeVar("Said")


def _parsed(text: str, known: Mapping[str, Said]) -> tuple[str | None, list[Said]]:
    """The relation, and what is known of each phrase in it; ValueError where no template fits."""
    bare = _bare(text)
    odd: list[str] = []
    for relation, pattern in _patterns() if len(bare) <= _LONGEST else ():
        if found := pattern.fullmatch(bare):
            phrases = [found[slot] for slot in sorted(found.groupdict())]
            unknown = [phrase for phrase in phrases if phrase not in known]
            if not unknown:
                return relation, [known[phrase] for phrase in phrases]
            odd.append(min(unknown, key=len))
    reason = f"{min(odd, key=len)!r} is no event with all its attributes" if odd else f"{len(bare)} characters"
    raise ValueError(f"not a sound caption: {reason}; expected such as {caption(SoundScene(EVENTS[0]))!r}")


Stated = frozenset[tuple[str, object]]  # (attribute, value) of one event


def _attributes(
    events: Sequence[Stated], relation: str | None, *, swapped: bool = False
) -> set[tuple[int, str, object]]:
    """(slot, attribute, value); the relation is an attribute of the second event."""
    found: set[tuple[int, str, object]] = {(1, "relation", relation)} if relation else set()
    return found | {(slot ^ swapped, *each) for slot, stated in enumerate(events) for each in stated}


def attribute_f1(predicted_caption: str, scene: SoundScene) -> float:
    """F1, in [0, 1], over the attributes (event, attribute, value) of a caption; 0 where it does not parse.

    A caption may leave attributes out, as "a rising tone, then two clicks" does: they are missed, and what it states
    counts. Where either scene has no order ("while"), its events count in the order that fits better.
    """
    try:
        relation, said = _parsed(predicted_caption, _stated_by_phrase())
    except ValueError:
        return 0.0  # by definition: a caption of another language says nothing of this scene
    whole = [
        frozenset((name, getattr(event, name)) for name in ("kind", "count", *KINDS[event.kind]))
        for event in scene.events
    ]
    true = _attributes(whole, scene.relation)
    orders = (False, True) if "while" in (relation, scene.relation) else (False,)
    stated = [_attributes(said, relation, swapped=order) for order in orders]
    return max(2 * len(true & one) / (len(true) + len(one)) for one in stated)


# ------------------------------------------------------------------------------------------------- splits and draws


def split_of(scene: SoundScene) -> str:
    """The split of the scene, by its unordered pair of events: one of SPLITS. One event alone is "train"."""
    if scene.second is None:
        return "train"
    low, high = sorted(event.code for event in scene.events)
    hashed = mix(np.array([low * len(EVENTS) + high + (_SALT << 16)], dtype=np.uint64))
    share = float(hashed[0] >> np.uint64(11)) * 2.0**-53
    return SPLITS[1 if share < VALIDATION_SHARE else 2 if share < VALIDATION_SHARE + HELD_OUT_SHARE else 0]


@cache
def _pool(split: str | None, relation: str | None) -> tuple[SoundScene, ...]:
    """All clear scenes of a split (None: any) and a form, in a fixed order."""
    _check("split", split, (*SPLITS, None))
    if relation is None:
        found = map(SoundScene, EVENTS)
    else:
        pairs = product(EVENTS, EVENTS)
        found = (SoundScene(a, b, relation) for a, b in pairs if relation == "then" or a.code < b.code)
    return tuple(scene for scene in found if is_clear(scene) and split in (None, split_of(scene)))


def sample_scene(seed: int, index: int, split: str | None = None) -> SoundScene:
    """Clip `index` of an endless stream: a pure function of its arguments. The form is drawn first (FORM_SHARES)."""
    rng = np.random.default_rng((_SALT, _natural("seed", seed), _natural("index", index)))
    pools = {relation: pool for relation in FORM_SHARES if (pool := _pool(split, relation))}
    shares = np.array([FORM_SHARES[relation] for relation in pools])
    pool = list(pools.values())[rng.choice(len(pools), p=shares / shares.sum())]
    return pool[rng.integers(len(pool))]


def scenes(split: str | None, count: int | None, seed: int) -> tuple[SoundScene, ...]:
    """`count` distinct scenes of a split (None: any) in an order drawn by the seed; None for all. ValueError beyond."""
    pool = [scene for relation in FORM_SHARES for scene in _pool(split, relation)]
    count = len(pool) if count is None else count
    if isinstance(count, bool) or not 1 <= count <= len(pool):
        where = "the sound world" if split is None else f"split {split!r} of the sound world"
        raise ValueError(f"{count} scenes wanted of {where}, which holds {len(pool)}; give 1 to {len(pool)}")
    order = np.random.default_rng((_SALT, _natural("seed", seed))).permutation(len(pool))[:count]
    return tuple(pool[i] for i in order)


def _natural(name: str, given: int) -> int:
    if isinstance(given, bool) or given != int(given) or given < 0:
        raise ValueError(f"{name} is {given}; allowed: whole numbers from 0")
    return int(given)
