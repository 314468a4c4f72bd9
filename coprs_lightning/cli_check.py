"""Walks what the user gave (configs, then flags) beside the constructors, to explain mistakes in their terms.

jsonargparse does the parsing and has the last word. This walk adds what it cannot say: which slot, which choices, did
you mean, which file; that a value would be ignored because it is derived from another part; and that a swapped class
kept values of the class before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf

from coprs_lightning.cli_configs import is_config_name, load_yaml
from coprs_lightning.cli_schema import (
    Parameter,
    alternatives,
    dataclass_of,
    describe,
    item_hint,
    mapping_hint,
    parameters,
    resolve_class,
    slot_bases,
    subclasses,
    suggest,
)
from coprs_lightning.commands import UsageError

_SPEC_KEYS = {"class_path", "init_args", "dict_kwargs"}


@dataclass(frozen=True)
class Setting:
    """Something that the user gave.

    Attributes:
        origin: a config's path or an option's name, for messages.
        content: nested mapping from the top of the config.
        folder: where files named in it are looked up.
    """

    origin: str
    content: dict[str, Any]
    folder: Path = Path()


def from_flag(name: str, value: str | None) -> Setting:
    """One option as a setting; ``--a.b c`` is ``{a: {b: c}}``."""
    content: Any = value
    if value is not None and not is_config_name(value):
        try:
            content = yaml.safe_load(value)
        except yaml.YAMLError:
            content = value
    keys = name.lstrip("-").split(".")
    if keys[-1].endswith("+"):
        keys[-1], content = keys[-1][:-1], content if isinstance(content, list) else [content]
    for key in reversed(keys):
        content = {key: content}
    return Setting(name, content)


@dataclass
class Checker:
    """Collects problems and notes over several settings, taken in the order in which they are merged.

    Attributes:
        sections: options at the top of a config; a section of several options is a nested mapping.
        link_targets: full paths of values that are derived from another part, with their source.
        problems: what is wrong, first things first.
        ignored: what would have no effect: values for link targets, empty sections of unknown name.
        notes: what may surprise.
        classes: class of each slot so far, by path.
    """

    sections: dict[str, Any]
    link_targets: dict[str, str]
    problems: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, type] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    _leaves: list[tuple[str, Any, Any, str]] = field(default_factory=list)
    _written: dict[str, Any] = field(default_factory=dict)
    _setting: Setting = field(default_factory=lambda: Setting("", {}))

    def take(self, setting: Setting) -> None:
        """Check one setting on top of those before it."""
        self._setting = setting
        self._group("", setting.content, self.sections)

    def value(self, path: str) -> Any:
        """What was given last for an option, as it was written; ``None`` where it was not given."""
        value = self._written.get(path)
        if isinstance(value, str) and "${" in value:  # of the environment at most: the whole config is not yet there
            return OmegaConf.create({"value": value}).value
        return value

    def problem(self) -> str | None:
        """The first mistake, wrong types and missing values included."""
        return next(iter([*self.problems, *self._wrong_types(), *self._missing("", self.sections)]), None)

    def _say(self, path: str, text: str) -> str:
        origin = self._setting.origin
        return f"{path}: {text}" if origin.lstrip("-") == path else f"{path} ({origin}): {text}"

    def _group(self, path: str, content: Any, options: dict[str, Any]) -> None:
        """Walk a section whose options are known by name."""
        if is_config_name(content):
            with self._file(path, content) as inside:
                self._group(path, inside, options)
            return
        if not isinstance(content, dict):
            if content is not None:
                self.problems.append(self._say(path, f"expected a section of options, got {content!r}."))
            return
        for key, value in content.items():
            inner = f"{path}.{key}" if path else str(key)
            option = options.get(str(key))
            if option is None:
                what = f"{path} has no option {key!r}" if path else f"there is no section {key!r}"
                names = [name for name in options if f"{path}.{name}" not in self.link_targets]
                hint = suggest(str(key), names, "Options" if path else "Sections") + self._group_hint(path, str(key))
                self.problems.append(self._say(inner, f"{what}.{hint} Names must be written out in full."))
                if not value:  # jsonargparse passes over an empty section
                    self.ignored.append(self.problems[-1])
            elif isinstance(option, dict):
                self._group(inner, value, option)
            else:
                self._value(inner, value, option.hint)

    def _group_hint(self, path: str, key: str) -> str:
        """Where to give a file of one section's options that was given as a whole config."""
        inside = [name for name in ("trainer", "model") if not path and key in self.sections.get(name, {})]
        return f" It is an option of {inside[0]}: give a file of such options as --{inside[0]} FILE." if inside else ""

    def _value(self, path: str, value: Any, hint: Any) -> None:
        bases, items = slot_bases(hint), item_hint(hint)
        self._written[path] = value
        if path in self.link_targets:
            self.ignored.append(self._say(path, f"is derived from {self.link_targets[path]}; leave it out."))
        elif value is None or (isinstance(value, str) and "${" in value):
            self.given[path] = self._setting.origin
        elif isinstance(value, list) and items is not None:
            for i, item in enumerate(value):
                self._value(f"{path}[{i}]", item, items)
        elif items is not None and slot_bases(items) and not bases and isinstance(value, dict):
            return  # `--list.option value`: an option of the last item; jsonargparse knows which
        elif isinstance(value, dict) and not bases and slot_bases(mapping_hint(hint)):
            for key, item in value.items():
                self._value(f"{path}.{key}", item, mapping_hint(hint))
        elif bases and isinstance(value, str | dict):
            if isinstance(value, str) and str in alternatives(hint):
                return
            self._slot(path, value, bases)
        elif dataclass_of(hint) is not None and (isinstance(value, dict) or is_config_name(value)):
            fields = parameters(dataclass_of(hint))
            self._group(path, value, dict(fields))
        else:
            self.given[path] = self._setting.origin
            self._leaves.append((path, value, hint, self._setting.origin))

    def _slot(self, path: str, value: Any, bases: tuple[type, ...]) -> None:
        """Walk a slot: a class name, ``{class_path, init_args}``, a file with that, or options of the class so far."""
        if is_config_name(value):
            with self._file(path, value) as inside:
                self._slot(path, inside, bases)
            return
        if isinstance(value, str):
            value = {"class_path": value}
        if not (_SPEC_KEYS & set(value)):
            value = {"init_args": value}
        own = value.get("init_args") or {}
        if not isinstance(own, dict):
            self.problems.append(self._say(path, f"init_args must be `key: value` lines, got {own!r}."))
            return
        if "class_path" in value:
            try:
                cls = resolve_class(str(value["class_path"]), bases)
            except ValueError as error:
                self.problems.append(self._say(path, str(error)))
                return
            self._note_inheritance(path, cls, own)
            self.classes[path] = cls
        for key in set(value) - _SPEC_KEYS:
            self.problems.append(
                self._say(f"{path}.{key}", f"stands beside class_path; options belong under {path}.init_args.")
            )
        known = self.classes.get(path)
        if known is not None:
            self._init_args(path, known, own)

    def _init_args(self, path: str, cls: type, arguments: dict[str, Any]) -> None:
        options = parameters(cls)
        for key, value in arguments.items():
            inner = f"{path}.init_args.{key}"
            if key not in options:
                names = [name for name in options if f"{path}.init_args.{name}" not in self.link_targets]
                hint = suggest(str(key), names, "Options")
                self.problems.append(self._say(inner, f"{cls.__name__} has no option {key!r}.{hint}"))
                if not value:  # see _group
                    self.ignored.append(self.problems[-1])
            else:
                self._value(inner, value, options[key].hint)

    def _note_inheritance(self, path: str, cls: type, own: dict[str, Any]) -> None:
        before = self.classes.get(path)
        if before is None or before is cls:
            return
        prefix, options = f"{path}.init_args.", parameters(cls)
        kept = []
        for leaf in [leaf for leaf in self.given if leaf.startswith(prefix)]:
            name = leaf[len(prefix) :].split(".")[0]
            if name not in options:
                del self.given[leaf]
            elif name not in own:
                kept.append(f"{name} ({self.given[leaf]})")
        if kept:
            self.notes.append(
                self._say(path, f"{cls.__name__} replaces {before.__name__} and keeps its {', '.join(kept)}.")
            )

    @contextmanager
    def _file(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        """Content of a file that a config names; what is found in there is reported under the file's name."""
        outer = self._setting
        file = outer.folder / name
        if not file.is_file():
            self.problems.append(self._say(path, f"names the file {name!r}, but there is no {file}."))
            yield {}
            return
        self._setting = Setting(str(file), {}, file.parent)
        try:
            yield load_yaml(file)
        finally:
            self._setting = outer

    def _wrong_types(self) -> list[str]:
        found = []
        for path, value, hint, origin in self._leaves:
            try:
                parser = ArgumentParser(exit_on_error=False)
                parser.add_argument("--value", type=hint)
            except ValueError:  # a hint that cannot be a command-line option on its own
                continue
            try:
                parser.parse_object({"value": value})
            except ArgumentError:
                self._setting = Setting(origin, {})
                found.append(self._say(path.replace(".init_args", ""), f"expected {describe(hint)}, got {value!r}."))
        return found

    def _missing(self, path: str, options: dict[str, Any]) -> list[str]:
        """Required options that nothing set."""
        found = []
        for name, option in options.items():
            inner = f"{path}.{name}" if path else name
            if isinstance(option, dict):
                found += self._missing(inner, option)
            elif isinstance(option, Parameter) and inner in self.classes:
                found += self._missing(f"{inner}.init_args", dict(parameters(self.classes[inner])))
            elif option.required and inner not in self.link_targets and not self._is_given(inner):
                bases = slot_bases(option.hint)
                hint = suggest("", subclasses(bases)) if bases else ""
                found.append(
                    f"{inner} is not set and has no default.{hint} Give a --config that sets it, or --{inner}."
                )
        return found

    def _is_given(self, path: str) -> bool:
        return any(leaf == path or leaf.startswith((f"{path}.", f"{path}[")) for leaf in self.given)


def refuse_ignored(checker: Checker) -> None:
    """Refuse values that would be ignored.

    Raises:
        UsageError: naming each of them and its source.
    """
    if checker.ignored:
        raise UsageError("; ".join(checker.ignored))
