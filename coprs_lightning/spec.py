"""Plain-data specs: what a part was built from, so that a checkpoint can rebuild it without config and without pickle.

A spec is ``{"class_path": str, "init_args": {…}}`` with plain values, nested for parts that hold parts – the same form
that a YAML config has, so a spec can be pasted into one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from coprs_lightning.importing import import_class


def class_path(cls: type) -> str:
    """Full import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def to_plain(value: Any) -> Any:
    """Turn a constructor argument into plain data.

    Raises:
        TypeError: for a value that a checkpoint cannot hold as data.
    """
    if isinstance(value, Recorded):
        return value.spec
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be written into a checkpoint as plain data, so the model could not "
        "be rebuilt from it. Pass numbers, strings, lists, dicts, dataclasses, or a Component."
    )


def _bound_arguments(
    init: Callable[..., None], self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    signature = inspect.signature(init)
    bound = signature.bind(self, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    arguments.pop(next(iter(signature.parameters)))
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(parameter.name, {}))
    return arguments


class Recorded:
    """Mixin: every subclass remembers the arguments it was built with, however it was built (CLI, YAML or Python)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        init = cls.__dict__.get("__init__")
        if init is None:
            return

        @functools.wraps(init)
        def recording_init(self: Any, *args: Any, **kw: Any) -> None:
            if "_recorded" not in self.__dict__:  # the outermost __init__ only
                object.__setattr__(self, "_recorded", _bound_arguments(init, self, args, kw))
            init(self, *args, **kw)

        cls.__init__ = recording_init  # type: ignore[method-assign, misc]

    @property
    def spec(self) -> dict[str, Any]:
        """``{"class_path", "init_args"}`` in plain data."""
        recorded = self.__dict__.get("_recorded", {})
        return {
            "class_path": class_path(type(self)),
            "init_args": {key: to_plain(value) for key, value in recorded.items()},
        }

    def recall(self, init_args: dict[str, Any]) -> None:
        """Remember these plain arguments in place of those it was built with."""
        object.__setattr__(self, "_recorded", dict(init_args))


def _coerce(annotation: Any, value: Any) -> Any:
    """Rebuild parts, dataclasses and tuples that :func:`to_plain` flattened."""
    if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
        return build(value)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            held = typing.get_origin(option) is dict or dataclasses.is_dataclass(option)
            if held and isinstance(value, dict):
                return _coerce(option, value)
        return value
    if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
        hints = typing.get_type_hints(annotation)
        return annotation(**{key: _coerce(hints.get(key), item) for key, item in value.items()})  # type: ignore[operator]
    if origin is dict and isinstance(value, dict):
        return {key: _coerce(typing.get_args(annotation)[1], item) for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    return value


def constructor_hints(cls: type) -> dict[str, Any]:
    """Type hints of every named constructor argument of ``cls``, those forwarded through ``**kwargs`` included."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        init = base.__dict__.get("__init__")
        if init is not None and base is not object:
            try:
                hints.update(typing.get_type_hints(inspect.unwrap(init)))
            except (NameError, TypeError):  # a third-party base with unresolvable hints: its arguments stay as they are
                continue
    return hints


def build(spec: dict[str, Any]) -> Any:
    """Build what a spec describes; only classes from the allowed packages (:mod:`coprs_lightning.importing`)."""
    cls = import_class(spec["class_path"])
    hints = constructor_hints(cls)
    return cls(**{key: _coerce(hints.get(key), value) for key, value in spec["init_args"].items()})
