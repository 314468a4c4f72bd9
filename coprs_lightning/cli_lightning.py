"""`coprs fit | validate | test | predict`: LightningCLI with derived sizes, checkpoint defaults and readable errors."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

import callbacks

# imported so that their classes can be named in short: `class_path: FiLMHead`
import datamodules.shard_datamodule  # noqa: F401
from coprs_lightning import cli_checkpoint, cli_configs, cli_resume
from coprs_lightning.cli_check import Checker, Setting, from_flag, refuse_ignored
from coprs_lightning.cli_errors import note
from coprs_lightning.cli_run import RunFolder, default_loggers, default_root, without_requeueing
from coprs_lightning.cli_schema import Parameter, parameters
from coprs_lightning.commands import CommandError, UsageError
from coprs_lightning.importing import allowed_packages, import_class
from coprs_lightning.module import CoprsModule
from coprs_lightning.spec import build, class_path
from coprs_lightning.weightless import shapes_only

LINKS = {
    "model.aggregator.init_args.hidden_size": "model.policy.hidden_size",
    "model.aggregator.init_args.num_tokens": "model.policy.num_tokens",
    "model.heatmap_head.init_args.query_dim": "model.aggregator.query_dim",
    "model.heatmap_head.init_args.in_channels": "model.backbone.out_channels",
    "model.decoder.init_args.in_channels": "model.backbone.out_channels",
    "data.init_args.image_size": "model.backbone.image_size",
}
"""Sizes that nobody types: full path of the option → where it is read from, once that part is built."""

CALLBACKS: dict[str, dict[str, Any]] = {
    "checkpoint": {
        "class_path": "callbacks.best_and_last.BestAndLast",
        "init_args": {
            "monitor": "val/giou",
            "mode": "max",
            "save_last": True,
            "filename": "step={step}-giou={val/giou:.4f}",
            "auto_insert_metric_name": False,
        },
    },
    "correlation": {"class_path": "callbacks.correlation.HeatmapMaskCorrelation"},
    "failures": {"class_path": "callbacks.failures.FailureReport"},
    "iou": {"class_path": "callbacks.iou.IoUMetrics"},
    "nan_guard": {"class_path": "callbacks.nan_guard.NaNGuard"},
    "panels": {"class_path": "callbacks.heatmap_panels.HeatmapPanels"},
    "progress": {"class_path": "callbacks.progress.CoprsProgressBar"},
    "provenance": {"class_path": "callbacks.provenance.Provenance"},
    "requeue": {"class_path": "callbacks.requeue.Requeue"},
    "results": {"class_path": "callbacks.results.ResultsWriter"},
    "rollouts": {"class_path": "callbacks.rollout_logger.RolloutLogger"},
    "smoke": {"class_path": "callbacks.smoke.SmokeCheck"},
    "thoughts": {"class_path": "callbacks.correlation_thoughts.ThoughtMaskCorrelation"},
}
"""Callbacks that every run has, in sections of their own so that no list in an overlay can drop them."""


_RESUME = Literal["auto", "none"] | None
_RESUME_HELP = (
    "auto: go on from the newest whole checkpoint of the run's own folder, if there is one; else from --ckpt_path, or "
    "from the beginning. none: do not. Without it, a job that SLURM has requeued goes on."
)


class CoprsCLI(LightningCLI):
    """LightningCLI over :class:`CoprsModule` with an open datamodule."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Default callbacks and links."""
        group = parser.add_argument_group("Callbacks of every run; null turns one off, trainer.callbacks adds others")
        for name, spec in CALLBACKS.items():
            cls = import_class(spec["class_path"])
            group.add_argument(f"--callbacks.{name}", type=cls | None, default=spec, help=_summary(cls))
        for target, source in LINKS.items():
            parser.link_arguments(source, target, apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's parser under a usage of one line: its own lists every option and buries the help."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = f"coprs {subcommand} --config FILE [--config OVERLAY …] [--OPTION VALUE …]"
        if subcommand == "fit":
            parser.add_argument("--resume", type=_RESUME, default=None, help=_RESUME_HELP)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse with the checkpoint's parts as defaults; explain mistakes.

        Raises:
            UsageError: for whatever cannot be understood.
        """
        command, words = args[0], args[1:]
        self._subcommand_parsers[command].set_defaults({"weights_only": True})
        cli_configs.check_order(words)
        words = self._resolve_checkpoint(command, cli_configs.resolve_names(words))
        checker = self._check(command, words)
        refuse_ignored(checker)
        try:
            self.config = parser.parse_args([command, *words])
        except (ArgumentError, TypeError, AttributeError) as error:  # the latter two: jsonargparse on odd YAML
            if not isinstance(error, ArgumentError) and checker.problem() is None:
                raise
            bare = not self.checkpoint_specs and not set(cli_configs.CONFIG_OPTIONS) & set(words)
            hint = _no_config(command) if bare else ""
            raise UsageError(hint + (checker.problem() or _shortened(error))) from error
        except OmegaConfBaseException as error:
            raise UsageError(
                f"an interpolation `${{…}}` in a config cannot be resolved: {_first_line(error)}"
            ) from error
        for text in checker.notes:
            note(text)

    def _resolve_checkpoint(self, command: str, words: list[str]) -> list[str]:
        """Turn a run folder given as ``ckpt_path`` into a file, and say which; ``resume`` stands above it."""
        self.checkpoint_specs: dict[str, dict[str, Any]] = {}
        given = cli_configs.last_value(words, "ckpt_path")
        if command == "fit" and cli_resume.wanted(cli_configs.last_value(words, "resume")):
            words = [*words, "--resume", cli_resume.AUTO]
            newest = self._newest_checkpoint(words)
            if newest is None and given is not None:
                note(f"--ckpt_path {given} is what it starts from")
            given = given if newest is None else str(newest)
        if given in (None, "best", "last", "hpc"):  # Lightning's own words
            return words
        found = cli_checkpoint.find_checkpoint(str(given), prefer="last" if command == "fit" else "best")
        if found.kind:
            note(f"using the {found.kind} checkpoint of {given}: {found.path}")
        self.checkpoint_specs = cli_checkpoint.specs(cli_checkpoint.read_header(found.path))
        return [*words, "--ckpt_path", str(found.path)]

    def _newest_checkpoint(self, words: list[str]) -> Path | None:
        """The newest checkpoint in the folder that the run will have; options are not yet parsed here."""
        settings = given(words)
        try:
            root = Path(str(settings.value("trainer.default_root_dir") or default_root("fit")))
            own = settings.value("callbacks.checkpoint.init_args.dirpath")
        except OmegaConfBaseException as error:
            raise UsageError(
                "--resume auto looks into the run's folder before the config is put together, so "
                "trainer.default_root_dir may refer to the environment only: "
                f"{_first_line(error)}. Write the folder itself."
            ) from error
        return cli_resume.newest_checkpoint(root, Path(str(own)) if own else None)

    def _check(self, command: str, words: list[str]) -> Checker:
        """Walk what was given, and set the checkpoint's parts as defaults."""
        checker = Checker(_sections(command), LINKS)
        checker.take(Setting("the defaults", {"callbacks": CALLBACKS}))
        settings = _settings(words)
        if self.checkpoint_specs:
            defaults = cli_checkpoint.as_defaults(self.checkpoint_specs, LINKS)
            given = Checker(_sections(command), LINKS)
            for setting in settings:
                given.take(setting)
            chosen = {path: class_path(cls) for path, cls in given.classes.items()}
            defaults = cli_checkpoint.drop_swapped(defaults, chosen)
            checker.take(Setting("the checkpoint", defaults))
            self._subcommand_parsers[command].set_defaults(_flattened(defaults))
        for setting in settings:
            checker.take(setting)
        return checker

    def _parse_ckpt_path(self) -> None:
        """Switch Lightning's own reading of checkpoints off: it puts their values above configs and flags."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the run's folder, default loggers and default callbacks."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        config["default_root_dir"] = str(config["default_root_dir"] or default_root(str(self.subcommand)))
        if config["logger"] in (None, True) and not config["fast_dev_run"] and not config["barebones"]:
            config["logger"] = default_loggers(config["default_root_dir"])
        config["plugins"] = without_requeueing(config["plugins"])
        return self._instantiate_trainer(config, self._default_callbacks(config))

    def _default_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """The callbacks of every run, without those that the trainer's options leave no room for."""
        section = self._get(self.config_init, "callbacks", default=Namespace())
        found = [callback for callback in section.as_dict().values() if callback is not None]
        own = config["callbacks"] if isinstance(config["callbacks"], list) else [config["callbacks"]]
        unwanted: list[type] = []
        if self.subcommand != "fit" or config["enable_checkpointing"] is False or config["fast_dev_run"]:
            unwanted.append(pl.callbacks.Checkpoint)
        if config["enable_progress_bar"] is False or any(isinstance(o, pl.callbacks.ProgressBar) for o in own):
            unwanted.append(pl.callbacks.ProgressBar)
        if config["barebones"]:
            return []
        return [callback for callback in found if not isinstance(callback, tuple(unwanted))]

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; where weights do not fit, say which option differs from the checkpoint's."""
        changed = []
        if "model" in self.checkpoint_specs:
            changed = cli_checkpoint.differences(
                self.checkpoint_specs["model"]["init_args"], self.model.spec["init_args"]
            )
            if changed:
                note(f"these options differ from the checkpoint's:{cli_checkpoint.listed(changed)}")
        try:
            super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if not changed or "Error(s) in loading state_dict" not in str(error):
                raise
            raise CommandError(
                "the checkpoint's weights do not fit this model. These options differ from the checkpoint's:"
                f"{cli_checkpoint.listed(changed)}\nLeave them out to take the checkpoint's. Lightning's own words: "
                f"{' '.join(str(error).split())[:300]} …"
            ) from error


class _LookingCLI(CoprsCLI):
    """Builds the model of a command without weights, and runs nothing."""

    def before_instantiate_classes(self) -> None:
        """No callbacks: they may open files."""
        self.config[self.subcommand].callbacks = Namespace()

    def instantiate_classes(self) -> None:
        """Model and datamodule alone."""
        with shapes_only():
            self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


class _ParsingCLI(_LookingCLI):
    """Checks the options of a command, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""
        self.config_init = self.config


def run(words: list[str]) -> CoprsCLI:
    """Run one of Lightning's commands.

    Args:
        words: command and options, ``["fit", "--config", "quickstart.yaml"]``.

    Raises:
        UsageError: for a command line or config that cannot be understood.
        CommandError: for a checkpoint that cannot be used.
    """
    return _cli(CoprsCLI, words)


def look(words: list[str]) -> CoprsCLI:
    """Build what `coprs fit` would train, without weights and without a trainer.

    Args:
        words: options of `coprs fit`.

    Raises:
        UsageError: for a command line or config that cannot be understood.
    """
    return _cli(_LookingCLI, ["fit", *words])


def parse_part(slot: str, words: list[str]) -> Any:
    """Build one part of the model alone, with its weights.

    Args:
        slot: ``backbone``, ``policy`` …
        words: options of `coprs fit`.

    Raises:
        UsageError: for a command line or config that cannot be understood.
    """
    model = _cli(_ParsingCLI, ["fit", *words]).config["fit"]["model"]
    return build(model[slot].as_dict())


def _cli(cls: type[CoprsCLI], words: list[str]) -> CoprsCLI:
    _quieten()
    for module in pkgutil.iter_modules(callbacks.__path__, "callbacks."):
        importlib.import_module(module.name)
    set_parsing_settings(
        omegaconf_absolute_to_relative_paths=True,
        import_path_denylist=["*"],
        import_path_allowlist=list(allowed_packages()),
    )
    return cls(
        CoprsModule,
        pl.LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=RunFolder,
        seed_everything_default=1,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # specs do that, without pickle
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False, "exit_on_error": False, "prog": "coprs"},
        args=words,
    )


def _quieten() -> None:
    """Keep advertisements and a library's own deprecations off the terminal."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)
    warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated")
    # RunFolder and default_loggers see to it that nothing gets lost there
    warnings.filterwarnings("ignore", r"(Checkpoint|Experiment logs) directory .* exists and is not empty")


def _is_news(record: logging.LogRecord) -> bool:
    return "\N{ELECTRIC LIGHT BULB} Tip" not in record.getMessage()


def given(words: list[str]) -> Checker:
    """What configs and options of `coprs fit` set, before anything is parsed; see :meth:`Checker.value`."""
    checker = Checker(_sections("fit"), LINKS)
    checker.take(Setting("the defaults", {"callbacks": CALLBACKS}))
    for setting in _settings(words):
        checker.take(setting)
    return checker


def _settings(words: list[str]) -> list[Setting]:
    """What configs and options set, in their order."""
    settings = []
    for option in cli_configs.options(words):
        if option.name in cli_configs.CONFIG_OPTIONS and option.value:
            content = cli_configs.load_yaml(option.value)
            settings.append(Setting(option.value, content, Path(option.value).parent))
        elif option.name.startswith("--") and not _only_prints(option.name):
            settings.append(from_flag(option.name, option.value))
    return settings


def _sections(command: str) -> dict[str, Any]:
    """What may stand at the top of a config, for :class:`Checker`."""
    skipped = {*LightningCLI.subcommands()[command], "self"}
    own = {name: option for name, option in parameters(getattr(pl.Trainer, command)).items() if name not in skipped}
    slots = {name: Parameter(import_class(spec["class_path"]) | None, False) for name, spec in CALLBACKS.items()}
    return {
        "seed_everything": Parameter(bool | int, False),
        "trainer": parameters(pl.Trainer),
        "model": parameters(CoprsModule),
        "data": Parameter(pl.LightningDataModule, True),
        "callbacks": slots,
        **own,
        **({"resume": Parameter(_RESUME, False)} if command == "fit" else {}),
    }


def _flattened(defaults: dict[str, Any]) -> dict[str, Any]:
    model = {f"model.{name}": value for name, value in defaults["model"].items()}
    return {**model, **({"data": defaults["data"]} if "data" in defaults else {})}


def _only_prints(name: str) -> bool:
    return name == "--help" or name.endswith(".help") or name.startswith("--print_config")


def _no_config(command: str) -> str:
    resume = "" if command == "fit" else f", or a run: coprs {command} --ckpt_path RUN"
    return f"`coprs {command}` needs a --config ({', '.join(cli_configs.shipped_names())} are shipped){resume}.\n  "


def _summary(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").split()).split(". ")[0].rstrip(".") + "."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _shortened(error: Exception) -> str:
    """Jsonargparse's own words on a few lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:6])
