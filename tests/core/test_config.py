"""Configs: presets, overrides and changes; equal configs are equal; every mistake is one line that says why."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.core.config import (
    differences,
    fingerprint,
    fingerprint_of_file,
    from_yaml,
    load_preset,
    preset_names,
    single_overrides,
    to_dict,
    to_yaml,
    with_changes,
    with_overrides,
)


@dataclass(frozen=True)
class Fit:
    steps: int = 100
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    name: str = "scenes"
    mode: Literal["slots", "grid"] = "grid"
    compile: bool = False
    cap: int | None = None
    band: tuple[float, float] = (1.5, 2.5)
    edges: tuple[int, ...] | None = None
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        if self.fit.steps < 1:
            raise ValueError(f"fit.steps={self.fit.steps}: wanted 1 or more")


CONFIGS = st.builds(
    Config,
    name=st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="$"), min_size=1),
    mode=st.sampled_from(("slots", "grid")),
    compile=st.booleans(),
    cap=st.none() | st.integers(),
    band=st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1, 1)),
    edges=st.none() | st.lists(st.integers(), max_size=3).map(tuple),
    pairs=st.lists(st.tuples(st.integers(), st.integers()), max_size=2).map(tuple),
    fit=st.builds(Fit, steps=st.integers(1), lr=st.floats(1e-12, 1e12)),
)


# --- presets ----------------------------------------------------------------------------------------------------


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    path = tmp_path / "presets.yaml"
    path.write_text("smoke:\n  fit: {steps: 2}\n  edges: [3, 4]\nquick:\nbroken: 3\nfull:\n  fit.steps: 50000\n")
    return path


def test_a_preset_says_what_differs_from_the_defaults(presets: Path) -> None:
    assert preset_names(presets) == ("smoke", "quick", "broken", "full")
    assert load_preset(Config, presets, "smoke") == Config(fit=Fit(steps=2), edges=(3, 4))
    assert load_preset(Config, presets, "quick") == Config()
    assert load_preset(Config, presets, "full").fit == Fit(steps=50000)


def test_a_preset_may_differ_further_on_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text("small:\n  fit: {steps: 2}\nsmall on edges:\n  fit: {steps: 3}\nfull:\n")
    assert preset_names(path) == ("small", "full")
    assert load_preset(Config, path, "small", ("fit.steps=9",)).fit.steps == 2
    assert load_preset(Config, path, "small", (" edges = [1,2]",)) == Config(fit=Fit(steps=3))
    assert load_preset(Config, path, "full", ("edges=[1,2]",)) == Config()
    for nothing in (("edges=",), ("edges=''",), ("edges=[1,2]", "edges=")):
        assert load_preset(Config, path, "small", nothing).fit.steps == 2
    with pytest.raises(ValueError, match="no preset 'small on edges'; there are: small, full"):
        load_preset(Config, path, "small on edges")


def test_a_preset_that_is_not_there_or_is_no_mapping_is_refused(presets: Path) -> None:
    with pytest.raises(ValueError, match="no preset 'tiny'; there are: smoke, quick, broken, full"):
        load_preset(Config, presets, "tiny")
    with pytest.raises(ValueError, match="preset broken should hold key: value lines, and holds 3"):
        load_preset(Config, presets, "broken")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "should hold a mapping, and holds list"),
        (b"a: [1\n", "not a readable YAML file"),
        (b"\xff\xfe\x00", "not a readable YAML file"),
        (b"a: !!python/object:os.system {}\n", "not a readable YAML file"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    for read in (preset_names, fingerprint_of_file, lambda p: from_yaml(Config, p)):
        with pytest.raises(ValueError, match=r"config\.yaml") as refusal:
            read(path)
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        from_yaml(Config, tmp_path / "nowhere.yaml")


# --- what comes back equals what went in --------------------------------------------------------------------------


@given(CONFIGS)
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    again = from_yaml(Config, path)
    assert again == config
    assert hash(again) == hash(config), "tuples stay tuples, at every depth"
    assert fingerprint(again) == fingerprint(config) == fingerprint_of_file(path)


@given(CONFIGS, CONFIGS)
def test_fingerprint_and_differences_tell_configs_apart(a: Config, b: Config) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (to_dict(a) == to_dict(b))
    assert (differences(a, b) == {}) == (a == b)
    assert with_changes(a, differences(a, b)) == b


def test_an_edit_of_the_file_changes_its_fingerprint_but_a_comment_does_not(tmp_path: Path) -> None:
    path, before = tmp_path / "config.yaml", fingerprint(Config())
    path.write_text("# a comment\n" + to_yaml(Config()))
    assert fingerprint_of_file(path) == before
    path.write_text(to_yaml(Config()).replace("steps: 100", "steps: 101"))
    assert fingerprint_of_file(path) != before


# --- overrides --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Config()),
        (["fit.steps=3"], Config(fit=Fit(steps=3))),
        (["fit.steps=3", "fit.steps=4"], Config(fit=Fit(steps=4))),
        (["fit={steps: 3, lr: 2}"], Config(fit=Fit(steps=3, lr=2.0))),
        (["fit={steps: 3}", "fit.lr=2"], Config(fit=Fit(steps=3, lr=2.0))),
        (["fit.lr=1e-4"], Config(fit=Fit(lr=1e-4))),
        (["fit.steps=1_000"], Config(fit=Fit(steps=1000))),
        (["compile=yes"], Config(compile=True)),
        (["compile=1"], Config(compile=True)),
        (["name=a=b=c"], Config(name="a=b=c")),
        (["name=7"], Config(name="7")),
        (["name='a: b'"], Config(name="a: b")),
        (["mode=slots"], Config(mode="slots")),
        (["cap=7"], Config(cap=7)),
        (["cap=7", "cap=null"], Config()),
        (["edges=[1, 2]"], Config(edges=(1, 2))),
        (["edges=[]"], Config(edges=())),
        (["band=[1, 2]"], Config(band=(1.0, 2.0))),
        (["pairs=[[3, 4], [5, 6]]"], Config(pairs=((3, 4), (5, 6)))),
    ],
)
def test_overrides(overrides: list[str], expected: Config) -> None:
    changed = with_overrides(Config(), overrides)
    assert changed == expected
    assert hash(changed) == hash(expected)


REFUSED = [
    # not key=value
    ("=3", "override '=3' is not key=value; e.g. name=..."),
    ("", "override '' is not key=value"),
    ("fit.steps", "override 'fit.steps' is not key=value"),
    # unknown keys, with what is near
    ("a=b=c", "unknown config key 'a'"),
    ("lr=3", "unknown config key 'lr'; did you mean fit.lr?"),
    ("fit.stpes=3", "did you mean fit.steps"),
    ("nmae=x", "did you mean name"),
    ("zzz=3", "there are: name, mode, compile, cap, band, edges, pairs, fit.steps, fit.lr, fit.sizes"),
    ("fit.lr.x=3", "unknown config key 'fit.lr.x'; did you mean fit.lr?"),
    ("cap={x: 1}", "unknown config key 'cap.x'; did you mean cap?"),
    ("fit={lr: 2, q: 1}", "unknown config key 'fit.q'"),
    ("fit.sizes[0]=3", "did you mean fit.sizes"),
    (" cap=3", "did you mean cap?"),
    ("a..b=1", "unknown config key 'a..b'"),
    (".cap=1", "unknown config key '.cap'"),
    ("cap.=1", "unknown config key 'cap.'"),
    ("0=1", "unknown config key '0'"),
    # groups
    ("fit=3", "fit=3: fit is a group; set one of fit.steps, fit.lr, fit.sizes"),
    ("fit=null", "fit is a group"),
    ("fit={}", "fit is a group"),
    # types
    ("fit.lr=abc", "fit.lr: Value 'abc'"),
    ("fit.lr=", "fit.lr: a value is wanted, and none was given"),
    ("fit.steps=null", "fit.steps: a value is wanted, and none was given"),
    ("fit.steps=1.5", "fit.steps: Value '1.5'"),
    ("fit.steps=true", "fit.steps: Value 'True'"),
    ("fit.steps={}", "fit.steps: Value '{}'"),
    ("compile=maybe", "compile: Value 'maybe'"),
    ("mode=circle", "mode: Invalid value 'circle', expected one of ['slots', 'grid']"),
    ("cap=x", "cap: Value 'x'"),
    ("edges=3", "edges: "),
    ("edges=[a]", "edges: Value '['a']'"),
    ("band=[1]", "band: "),
    ("band=[1, 2, 3]", "band: "),
    # numbers that are none
    ("fit.lr=nan", "fit.lr=nan: wanted a finite number"),
    ("fit.lr=.inf", "fit.lr=inf: wanted a finite number"),
    ("fit.lr='nan'", "fit.lr=nan: wanted a finite number"),
    ("fit.lr=1e400", "fit.lr=inf: wanted a finite number"),
    ("band=[1, .nan]", "band=nan: wanted a finite number"),
    # ranges, from the config itself
    ("fit.steps=0", "fit.steps=0: wanted 1 or more"),
    # unreadable values
    ("cap=[1", "override 'cap=[1' cannot be read: did not find expected ',' or ']'"),
    ("name=${x", "override 'name=${x' cannot be read"),
    ("name=${name}", "name: "),
    ("name=${nowhere}", "name: "),
    ("name=\x00", "cannot be read"),
    ("name=\udcff", "cannot be read"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED, ids=[repr(o) for o, _ in REFUSED])
def test_a_mistake_is_answered_by_one_line(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refusal:
        with_overrides(Config(), ["compile=true", override, "fit.sizes=[5]"])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_mistake_is_not_hidden_by_a_later_override() -> None:
    with pytest.raises(ValueError, match="fit is a group"):
        with_overrides(Config(), ["fit=3", "fit.lr=2"])
    with pytest.raises(ValueError, match=r"unknown config key 'cap\.x'"):
        with_overrides(Config(), ["cap.x=1", "cap=4"])


def test_one_key_cannot_be_a_value_and_a_group() -> None:
    with pytest.raises(ValueError, match=r"fit\.lr: given both as a value and as a group"):
        with_changes(Config(), {"fit": 3, "fit.lr": 2})


@given(st.text(max_size=12))
@settings(max_examples=60)
def test_no_word_gets_past_as_anything_but_a_config_or_a_value_error(word: str) -> None:
    for override in (word, f"{word}=1", f"fit.lr={word}", f"name={word}", f"edges={word}"):
        with suppress(ValueError):
            assert isinstance(with_overrides(Config(), [override]), Config)


# --- words that are text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("012", "012"),
        ("1_000", "1_000"),
        ("0x1", "0x1"),
        ("1e-3", "1e-3"),
        ("yes", "yes"),
        ("null", "null"),
        ("~", "~"),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("a: b", "a: b"),
        ("#x", "#x"),
        ("x #y", "x #y"),
        ("[a,b]", "[a,b]"),
        ("@x", "@x"),
        ("!!int 3", "!!int 3"),
        ("a=b", "a=b"),
        ("it's", "it's"),
        (" a b ", "a b"),
        ("'012'", "012"),
        ('"yes"', "yes"),
        ("'it''s'", "it's"),
        ("''", ""),
    ],
)
def test_where_text_is_wanted_it_is_the_words_as_typed(tmp_path: Path, typed: str, taken: str) -> None:
    config = with_overrides(Config(), [f"name={typed}"])
    assert config.name == taken
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(Config, path) == config
    assert fingerprint_of_file(path) == fingerprint(config)


def test_other_values_are_yaml_still() -> None:
    config = with_overrides(Config(), ["compile=yes", "cap=0x10", "edges=[1,2]", "fit={steps: 3}"])
    assert (config.compile, config.cap, config.edges, config.fit.steps) == (True, 16, (1, 2), 3)
    with pytest.raises(ValueError, match="cannot be read"):
        with_overrides(Config(), ["name='a"])
    with pytest.raises(ValueError, match="name: a value is wanted, and none was given"):
        with_overrides(Config(), ["name="])


def test_an_override_of_a_group_is_one_of_each_key() -> None:
    assert single_overrides("fit={steps: 3, sizes: [1, 2]}") == ["fit.steps=3", "fit.sizes=[1, 2]"]
    assert single_overrides("data={text: '012', own: \"'a'\", none: null}") == [
        "data.text=012",
        "data.own=\"'a'\"",
        "data.none=null",
    ]
    assert single_overrides(" name=a=b ") == ["name=a=b"]
