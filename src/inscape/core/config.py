"""Configs are frozen dataclasses; presets are YAML beside the phase; overrides are key=value.

OmegaConf gives types and refuses unknown keys; each dataclass checks its own ranges in `__post_init__`.
Every error here is a user's mistake, so every error is a ValueError of one line.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "differences",
    "fingerprint",
    "fingerprint_of_file",
    "from_yaml",
    "load_preset",
    "preset_names",
    "single_overrides",
    "to_dict",
    "to_yaml",
    "with_changes",
    "with_overrides",
]

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain dictionaries and lists, in field order."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(config: Any) -> str:
    """Eight hex digits that name exactly this config: what a run directory is filed under."""
    return _digest(to_dict(config))


def fingerprint_of_file(path: Path) -> str:
    """The `fingerprint` of the config that was written to a YAML file: another one after any edit of a value."""
    return _digest(_read_yaml(path))


def differences(before: Any, after: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys whose value differs, with the value in `after`."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old):
            found |= differences(old, new, f"{prefix}{field.name}.")
        elif old != new:
            found[prefix + field.name] = new
    return found


ON = " on "  # "small on data.text": what differs further in preset small where a text file is named


def preset_names(presets: Path) -> tuple[str, ...]:
    """The presets that a YAML file declares, in its order."""
    return tuple(name for name in _read_yaml(presets) if ON not in name)


def load_preset(config_type: type[C], presets: Path, name: str, corpus: Sequence[str] = ()) -> C:
    """The config that `presets` (YAML: preset name -> what differs from the defaults) declares under `name`.

    corpus: overrides that name what is trained on. Where one of them sets KEY, and not to nothing, what stands under
    "`name` on KEY" differs as well: another corpus may want other sizes. The overrides themselves are not applied.
    """
    declared = _read_yaml(presets)
    if name not in declared or ON in name:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(n for n in declared if ON not in n)}")
    config = config_type()
    for part in (name, *(f"{name}{ON}{key}" for key in _named(corpus))):
        changes = declared.get(part) or {}
        if not isinstance(changes, dict):
            raise ValueError(f"{presets}: preset {part} should hold key: value lines, and holds {changes!r}")
        config = with_changes(config, changes)
    return config


def _named(corpus: Sequence[str]) -> list[str]:
    """The keys that the overrides set to something; the last word on a key counts."""
    values: dict[str, str] = {}
    for key, _, value in (item.partition("=") for item in corpus):
        values[key.strip()] = value.strip().strip("'\"")
    return [key for key, value in values.items() if value]


def with_overrides(config: C, overrides: Sequence[str]) -> C:
    """The config with `key=value` strings applied, a later one over an earlier; keys are dotted.

    Values are YAML, but where the config wants text, say a file's name, it is the words as typed, quotes around them
    dropped: YAML would make 10 of 012 and True of yes.
    """
    changes: dict[str, Any] = {}
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"override {item!r} is not key=value; e.g. {next(iter(_keys(config)))}=...")
        given = _nest(_as_typed(config, item) or _read_override(item))
        _refuse_unknown(config, given)
        changes |= _flatten(given)
    return with_changes(config, changes)


def single_overrides(item: str) -> list[str]:
    """An override of a whole group, data={text: a}, as one of each key: data.text=a. Any other as it is."""
    if not item.partition("=")[2].strip().startswith("{"):
        return [item.strip()]
    return [f"{key}={_word(value)}" for key, value in _flatten(_read_override(item.strip())).items()]


def with_changes(config: C, changes: Mapping[str, Any]) -> C:
    """The config with a (nested or dotted) mapping of changes applied; unknown keys and wrong types are refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    nested = _nest(changes)
    _refuse_unknown(config, nested)
    typed = OmegaConf.structured(config)
    _unlock(typed)
    try:
        for key, value in _flatten(nested).items():
            with _one_line(key, value):
                OmegaConf.update(typed, key, value, merge=False)
        plain: Any = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise ValueError(f"{getattr(error, 'full_key', '')}: {_first_line(error)}") from None
    _refuse_not_finite(plain)
    return plain


def to_yaml(config: Any) -> str:
    """The config as YAML text."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def from_yaml(config_type: type[C], path: Path) -> C:
    """The inverse of `to_yaml`, from a file."""
    return with_changes(config_type(), _read_yaml(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except Exception as error:  # yaml and omegaconf errors share no base class
        raise ValueError(f"{path} is not a readable YAML file: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a mapping, and holds {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _as_typed(config: Any, item: str) -> dict[str, Any]:
    """An override of text, in the words that were typed; empty if it is none, or YAML is to read or refuse it.

    Those are no words at all, words in quotes, ${interpolations}, and signs that cannot be printed.
    """
    key, _, words = item.partition("=")
    words = words.strip()
    for_yaml = not words or words.startswith(("'", '"')) or "$" in words or not words.isprintable()
    return {key: words} if isinstance(_keys(config).get(key), str) and not for_yaml else {}


def _word(value: Any) -> str:
    """A value as an override would have it; text only in quotes where it would lose something without."""
    plain = isinstance(value, str) and value == value.strip() and not value.startswith(("'", '"'))
    return value if plain else json.dumps(value, default=str)


def _read_override(item: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([item]))  # type: ignore[return-value]
    except Exception as error:  # yaml and omegaconf errors share no base class
        raise ValueError(f"override {item!r} cannot be read: {_first_line(error)}") from None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _first_line(error: BaseException) -> str:
    """What was wrong; a YAML error opens with what it was reading, and says what was wrong as its `problem`."""
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0]


@contextmanager
def _one_line(key: str, value: Any) -> Iterator[None]:
    """Say which key and value OmegaConf refused; of sequences its own message names neither."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except OmegaConfBaseException as error:
        reason = _first_line(error).replace("$VALUE_TYPE", type(value).__name__).replace("$VALUE", str(value))
        raise ValueError(f"{key}: {'a value is wanted, and none was given' if value is None else reason}") from None


def _keys(config: Any, prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        keys |= (
            _keys(value, f"{prefix}{field.name}.") if dataclasses.is_dataclass(value) else {prefix + field.name: value}
        )
    return keys


def _flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        group = isinstance(value, dict) and value  # an empty one is kept, so that it is refused and not overlooked
        flat |= _flatten(value, f"{prefix}{key}.") if group else {prefix + str(key): value}
    return flat


def _nest(changes: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in _flatten(dict(changes)).items():
        *path, last = dotted.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{dotted}: given both as a value and as a group")
        place[last] = value
    return nested


def _refuse_unknown(config: Any, nested: dict[str, Any]) -> None:
    known = _keys(config)
    groups = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    for key, value in _flatten(nested).items():
        if key in groups:
            raise ValueError(
                f"{key}={value}: {key} is a group; set one of {', '.join(k for k in known if k.startswith(key + '.'))}"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
            raise ValueError(f"unknown config key {key!r}; {hint}")


def _refuse_not_finite(config: Any) -> None:
    """NaN passes every range check written as `if x <= 0`, and equals no declared value, not even itself."""
    for key, value in _keys(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key}={number}: wanted a finite number")


def _unlock(node: Any) -> None:
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)
