"""Finding configs: files of the user's first, then the ones shipped with the package."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import coprs_lightning
from coprs_lightning.cli_errors import note
from coprs_lightning.commands import UsageError

CONFIG_OPTIONS = ("-c", "--config")
_SUFFIXES = (".yaml", ".yml")


def shipped_configs() -> Path:
    """Folder of the shipped configs: the same in a checkout, an editable install and a wheel."""
    return Path(coprs_lightning.__file__).resolve().parent.parent / "configs"


def shipped_names() -> list[str]:
    """The shipped configs that stand on their own, by file name; groups and overlays are in folders."""
    return sorted(path.name for path in shipped_configs().glob("*.yaml"))


def is_config_name(value: Any) -> bool:
    """Whether a value names a YAML file."""
    return isinstance(value, str) and value.endswith(_SUFFIXES)


@dataclass(frozen=True)
class Option:
    """One option on the command line.

    Attributes:
        name: with its dashes.
        value: the word that belongs to it, ``None`` where there is none.
        joined: whether both were one word, ``--name=value``.
    """

    name: str
    value: str | None
    joined: bool = False

    def words(self) -> list[str]:
        """The option as command-line words."""
        if self.value is None:
            return [self.name]
        return [f"{self.name}={self.value}"] if self.joined else [self.name, self.value]


def options(words: list[str]) -> Iterator[Option]:
    """Split command-line words into options; a word that belongs to none comes as an option without a value."""
    i = 0
    while i < len(words):
        word = words[i]
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield Option(word, None)
        elif equals:
            yield Option(name, value, joined=True)
        elif i + 1 < len(words) and not _is_option(words[i + 1]):
            i += 1
            yield Option(word, words[i])
        else:
            yield Option(word, None)
        i += 1


def _is_option(word: str) -> bool:
    return word.startswith("--") or word in ("-c", "-h")


def resolve_names(words: list[str]) -> list[str]:
    """Replace names of shipped configs by their paths, and say so on stderr.

    Raises:
        UsageError: for a config that is nowhere, with near names.
    """
    resolved: list[str] = []
    for option in options(words):
        value = option.value
        if value is None and option.name in CONFIG_OPTIONS:
            raise UsageError(f"{option.name} needs a file; shipped ones: {', '.join(shipped_names())}.")
        if value is not None and (option.name in CONFIG_OPTIONS or is_config_name(value)):
            value = find_config(value)
        resolved += Option(option.name, value, option.joined).words()
    return resolved


def find_config(name: str) -> str:
    """The path of a config file.

    Args:
        name: a path; or the path or bare file name of a shipped config (``quickstart.yaml``, ``trainer/gpu.yaml``).

    Raises:
        UsageError: when there is no such file, or several shipped ones have that name.
    """
    if Path(name).is_file():
        return name
    folder = shipped_configs()
    for candidate in (folder / name, folder.parent / name):
        if candidate.is_file() and candidate.resolve().is_relative_to(folder):
            return _use(candidate)
    same = [path for path in _yaml_files(folder) if path.name == name]
    if len(same) == 1:
        return _use(same[0])
    if same:
        listing = ", ".join(str(path.relative_to(folder)) for path in same)
        raise UsageError(f"config {name!r} is not here, and several shipped ones have that name: {listing}. Name one.")
    raise UsageError(
        f"config {name!r} is neither here ({Path.cwd()}) nor among the shipped ones ({folder}).{_near(name)}"
    )


def _use(path: Path) -> str:
    note(f"using the shipped {path.relative_to(shipped_configs().parent)} ({path})")
    return str(path)


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)


def _near(name: str) -> str:
    folder = shipped_configs()
    names = [str(path.relative_to(folder)) for path in _yaml_files(folder)]
    names += [path.name for path in sorted(Path.cwd().glob("*")) if path.suffix in _SUFFIXES]
    by_stem = {Path(candidate).stem: candidate for candidate in reversed(names)}
    near = difflib.get_close_matches(name, names, 3, 0.6)
    near += [by_stem[stem] for stem in difflib.get_close_matches(Path(name).stem, by_stem, 3, 0.6)]
    if near:
        return f" Did you mean {' or '.join(dict.fromkeys(near))}?"
    return f" There are: {', '.join(names)}."


def check_order(words: list[str]) -> None:
    """Refuse options before a config: the config would overwrite them without a word.

    Raises:
        UsageError: naming the options that would be lost and where to put them.
    """
    found = list(options(words))
    last = max((i for i, option in enumerate(found) if option.name in CONFIG_OPTIONS), default=0)
    kept = (*CONFIG_OPTIONS, "--ckpt_path", "--resume")
    lost = [option for option in found[:last] if option.name not in kept and option.value is not None]
    if lost:
        named = " ".join(word for option in lost for word in option.words())
        config = found[last].value
        raise UsageError(
            f"`{named}` stands before `--config {config}`, which would overwrite it where both set the same value. "
            f"Put options after the configs: --config {config} {named}"
        )


def last_value(words: list[str], name: str) -> Any:
    """The value that a top-level option ends up with: from the configs in their order, then from flags."""
    value = None
    for option in options(words):
        if option.name in CONFIG_OPTIONS and option.value is not None:
            value = load_yaml(option.value).get(name, value)
        elif option.name == f"--{name}":
            value = None if option.value == "null" else option.value
    return value


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Content of a config file.

    Raises:
        UsageError: when it is no YAML mapping; with line and column.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"config {path} is no UTF-8 text: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"config {path} is no valid YAML: {where}{problem}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"config {path} must hold `key: value` lines, it holds a {type(content).__name__}.")
    return content
