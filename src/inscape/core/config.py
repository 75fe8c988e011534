"""Configs are frozen dataclasses; presets are YAML beside the phase; overrides are key=value.

OmegaConf gives types and refuses unknown keys; each dataclass checks its own ranges in `__post_init__`.
Every error here is a user's mistake, so every error is a ValueError of one line.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "differences",
    "fingerprint",
    "from_yaml",
    "load_preset",
    "preset_names",
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
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:8]


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


def preset_names(presets: Path) -> tuple[str, ...]:
    """The presets that a YAML file declares, in its order."""
    return tuple(_read_yaml(presets))


def load_preset(config_type: type[C], presets: Path, name: str) -> C:
    """The config that `presets` (YAML: preset name -> what differs from the defaults) declares under `name`."""
    declared = _read_yaml(presets)
    if name not in declared:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(declared)}")
    return with_changes(config_type(), declared[name] or {})


def with_overrides(config: C, overrides: Sequence[str]) -> C:
    """The config with `key=value` strings applied; values are YAML, keys are dotted."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"override {item!r} is not key=value; e.g. {next(iter(_keys(config)))}=...")
    try:
        changes = OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"overrides {' '.join(overrides)!r} cannot be read: {_first_line(error)}") from None
    except Exception as error:  # the YAML parser's own family of errors
        if type(error).__module__.startswith("yaml"):
            raise ValueError(f"overrides {' '.join(overrides)!r} cannot be read: {_first_line(error)}") from None
        raise
    return with_changes(config, OmegaConf.to_container(changes))


def with_changes(config: C, changes: Any) -> C:
    """The config with a (nested or dotted) mapping of changes applied; unknown keys and wrong types are refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    nested = _nest(changes)
    _refuse_unknown(config, nested)
    base = OmegaConf.structured(config)
    _unlock(base)
    try:
        merged: Any = OmegaConf.to_object(OmegaConf.merge(base, nested))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ", ".join(_flatten(nested))
        raise ValueError(f"{key}: {_first_line(error)}") from None
    return _tuples(config, merged)


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


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


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
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + str(key): value}
    return flat


def _nest(changes: Any) -> dict[str, Any]:
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


def _unlock(node: Any) -> None:
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


def _tuples(before: Any, after: Any) -> Any:
    """OmegaConf turns tuples into lists; frozen configs keep them tuples, so that equal configs are equal."""
    changed = {}
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old):
            changed[field.name] = _tuples(old, new)
        elif isinstance(old, tuple) and isinstance(new, list):
            changed[field.name] = tuple(new)
    return dataclasses.replace(after, **changed) if changed else after
