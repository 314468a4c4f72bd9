"""What a config may say, read from constructors: options of a class, classes of a slot, names for messages."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any

from coprs_lightning.importing import allowed_packages, check_allowed, import_class

_SHOWN_CHOICES = 16
_LIGHTNING_BASES = ("Callback", "LightningDataModule")  # not abstract, but of no use by themselves
_PLAIN_MODULES = ("builtins", "types", "pathlib", "datetime", "enum", "typing", "collections")


@dataclass(frozen=True)
class Parameter:
    """One option of a constructor.

    Attributes:
        hint: its type hint, resolved; ``Any`` where it has none.
        required: whether it has no default.
    """

    hint: Any
    required: bool


def parameters(function: Any) -> dict[str, Parameter]:
    """Options of a class or function by name; those that a class forwards through ``**kwargs`` included."""
    if not isinstance(function, type):
        return _signature(function)[0]
    found: dict[str, Parameter] = {}
    for base in function.__mro__:
        init = base.__dict__.get("__init__")
        if init is None or base is object:
            continue
        own, forwards = _signature(inspect.unwrap(init))
        found = {**own, **found}
        if not forwards:
            break
    return dict(sorted(found.items()))


def _signature(function: Any) -> tuple[dict[str, Parameter], bool]:
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # hints of a library that only its type checker can resolve
        hints = {}
    found, forwards = {}, False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            forwards = True
        elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = Parameter(hints.get(name, Any), parameter.default is parameter.empty)
    return found, forwards


def alternatives(hint: Any) -> list[Any]:
    """The members of a union, flattened; the hint itself where it is none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for option in typing.get_args(hint) for member in alternatives(option)]
    return [hint]


def slot_bases(hint: Any) -> tuple[type, ...]:
    """The base classes that a hint accepts by ``class_path``; none for plain values."""
    classes = [member for member in alternatives(hint) if isinstance(member, type)]
    return tuple(
        cls
        for cls in classes
        if cls.__module__.split(".")[0] not in _PLAIN_MODULES and not dataclasses.is_dataclass(cls)
    )


def item_hint(hint: Any) -> Any | None:
    """The hint of a list's items, or ``None`` where no list is accepted."""
    for member in alternatives(hint):
        if typing.get_origin(member) in (list, collections.abc.Iterable, collections.abc.Sequence):
            return (typing.get_args(member) or (Any,))[0]
    return None


def mapping_hint(hint: Any) -> Any | None:
    """The hint of a mapping's values, or ``None`` where no mapping is accepted."""
    for member in alternatives(hint):
        if typing.get_origin(member) in (dict, collections.abc.Mapping):
            return (*typing.get_args(member), Any, Any)[1]
    return None


def dataclass_of(hint: Any) -> type | None:
    """The dataclass that a hint accepts, if any."""
    return next((m for m in alternatives(hint) if isinstance(m, type) and dataclasses.is_dataclass(m)), None)


def subclasses(bases: tuple[type, ...]) -> dict[str, type]:
    """Concrete classes of a slot that have been imported, by short name."""
    found: dict[str, type] = {}
    pending = list(bases)
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.__name__ in _LIGHTNING_BASES:
            continue
        public = not cls.__name__.startswith("_") and cls.__module__.startswith(allowed_packages())
        if public and not inspect.isabstract(cls):
            found.setdefault(cls.__name__, cls)
    return dict(sorted(found.items()))


def resolve_class(name: str, bases: tuple[type, ...]) -> type:
    """The class that a ``class_path`` means.

    Raises:
        ValueError: for an unknown, forbidden or unfitting class; with the choices.
    """
    choices, wanted = subclasses(bases), " or ".join(base.__name__ for base in bases)
    if "." not in name:
        if name in choices:
            return choices[name]
        raise ValueError(f"no {wanted} is called {name!r}.{suggest(name, choices)}")
    check_allowed(name)
    try:
        cls = import_class(name)
    except ImportError as error:
        raise ValueError(f"{name!r} cannot be imported: {error}.{suggest(name.split('.')[-1], choices)}") from error
    if not issubclass(cls, bases):
        raise ValueError(f"{name!r} is no {wanted}.{suggest(cls.__name__, choices)}")
    return cls


def suggest(name: str, choices: typing.Iterable[str], label: str = "Choices") -> str:
    """`` Did you mean …? Choices: ….`` for an unknown name; long lists are cut to the nearest."""
    names = sorted(choices)
    folded = {choice.lower(): choice for choice in reversed(names)}
    near = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, 3, 0.6)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    if not names:
        return f"{hint} There are none."
    if len(names) > _SHOWN_CHOICES and near:
        return hint
    more = f", … ({len(names)} in all)" if len(names) > 3 * _SHOWN_CHOICES else ""
    return f"{hint} {label}: {', '.join(names[: 3 * _SHOWN_CHOICES])}{more}."


def describe(hint: Any) -> str:
    """A hint as a user reads it: ``int``, ``int or null``, ``'auto' or 'float32'``."""
    words = []
    for member in alternatives(hint):
        if member is type(None):
            words.append("null")
        elif typing.get_origin(member) is typing.Literal:
            words += [repr(value) for value in typing.get_args(member)]
        elif isinstance(member, type) and not typing.get_args(member):
            words.append(member.__name__)
        else:
            words.append(str(member).replace("typing.", ""))
    return " or ".join(dict.fromkeys(words))
