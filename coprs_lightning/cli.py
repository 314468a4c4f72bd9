"""The `coprs` command: looks at the first word and imports only what that command needs.

`fit | validate | test | predict` go to :mod:`coprs_lightning.cli_lightning`, everything else to a module in
:mod:`coprs_lightning.commands`. `coprs --help` imports neither torch nor any command.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from coprs_lightning import __version__
from coprs_lightning.cli_errors import DEBUG_ENV, debugging, fail, is_message
from coprs_lightning.commands import UsageError

TRAINER_COMMANDS = {
    "fit": "train a model",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "segment the test split, for callbacks that use the outputs",
}
_COMMANDS = "coprs_lightning.commands"
_EXAMPLES = """\
examples:
  coprs data synthetic --output data/synthetic   make the synthetic dataset
  coprs fit --config quickstart.yaml             train the small model on it
  coprs fit -c coprs.yaml --trainer.max_steps 9  the paper's model; flags come after the configs
  coprs fit --model.heatmap_head.help FiLMHead   options of one part
  coprs validate --ckpt_path runs/quickstart     evaluate the best checkpoint of a run
  coprs segment --checkpoint runs/quickstart --image photo.jpg --question "what floats?" --output out
  coprs demo --checkpoint runs/quickstart        ask it in the browser
"""


def main(args: list[str] | None = None) -> int:
    """Run one `coprs` command.

    Args:
        args: the words after ``coprs``; ``None`` takes them from the command line.

    Returns:
        0.

    Raises:
        SystemExit: 2 where the command line or a config cannot be understood, 1 for another mistake of the user's or of
            the input's; both after a message on stderr.
    """
    words = list(sys.argv[1:] if args is None else args)
    if "--debug" in words:
        words.remove("--debug")
        os.environ[DEBUG_ENV] = "1"
    try:
        status = _dispatch(words)
    except Exception as error:
        if debugging() or not is_message(error):
            raise
        fail(error)
    if status:
        raise SystemExit(status)
    return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview("coprs", {**TRAINER_COMMANDS, **commands(_COMMANDS)}, _EXAMPLES))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"coprs {__version__}")
        return 0
    if words[0] in TRAINER_COMMANDS:
        from coprs_lightning.cli_lightning import run

        run(words)
        return 0
    return _run_command(words)


def commands(package: str) -> dict[str, str]:
    """Names and help lines of the command modules of a package, read without importing them."""
    return {module.name: _help_line(Path(module.path)) for module in _modules(package)}


class _Found:
    """A command module on disk, not imported."""

    def __init__(self, name: str, package: str, path: str) -> None:
        self.name = name.replace("_", "-")
        self.import_path = f"{package}.{name}"
        self.path = path


def _modules(package: str) -> Iterator[_Found]:
    folder = Path(__file__).parent / Path(*package.split(".")[1:])
    for module in pkgutil.iter_modules([str(folder)]):
        if not module.name.startswith("_"):
            file = folder / module.name / "__init__.py" if module.ispkg else folder / f"{module.name}.py"
            yield _Found(module.name, package, str(file))


def _help_line(file: Path) -> str:
    """The module's ``HELP``, else the first line of its docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        named = isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "HELP" for target in node.targets)
        if isinstance(node, ast.Assign) and named:
            return str(ast.literal_eval(node.value))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def _overview(program: str, found: dict[str, str], epilog: str = "") -> str:
    width = max((len(name) for name in found), default=0)
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in found.items())
    return (
        f"usage: {program} [--version] [--debug] COMMAND …\n\n"
        "Reasoning segmentation with a differentiable positional prior.\n\n"
        f"commands:\n{listing}\n\n`{program} COMMAND --help` shows a command's options.\n\n{epilog}"
    ).rstrip()


def _run_command(words: list[str]) -> int:
    """Run `coprs NAME …` or `coprs GROUP NAME …` from the commands package."""
    package, program, rest = _COMMANDS, "coprs", words
    while True:
        found = {module.name: module for module in _modules(package)}
        if rest and rest[0] in ("-h", "--help"):
            print(_overview(program, {name: _help_line(Path(module.path)) for name, module in found.items()}))
            return 0
        choices = [*(TRAINER_COMMANDS if package == _COMMANDS else {}), *found]
        if not rest or rest[0] not in found:
            _refuse(program, rest, choices)
        chosen = found[rest[0]]
        program, rest = f"{program} {chosen.name}", rest[1:]
        if not chosen.path.endswith("__init__.py"):
            break
        package = chosen.import_path
    module: ModuleType = importlib.import_module(chosen.import_path)
    parser = argparse.ArgumentParser(
        prog=program,
        description=module.HELP,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    module.add_arguments(parser)
    if getattr(module, "PASSES_ON", False):
        args, words = parser.parse_known_args(rest)
        args.words = words
    else:
        args = parser.parse_args(rest)
    return int(module.run(args) or 0)


def _refuse(program: str, rest: list[str], choices: list[str]) -> None:
    """Refuse a missing or unknown command.

    Raises:
        UsageError: naming the commands and the nearest one.
    """
    if not rest:
        raise UsageError(f"`{program}` needs a command: {', '.join(choices)}.")
    near = difflib.get_close_matches(rest[0], choices, 1, 0.5)
    hint = f" Did you mean `{program} {near[0]}`?" if near else ""
    raise UsageError(f"`{program}` has no command {rest[0]!r}.{hint} Commands: {', '.join(choices)}.")
