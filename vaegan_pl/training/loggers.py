"""Loggers whose failures do not stop a run."""

import csv
import logging
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import yaml
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from vaegan_pl.errors import UserError
from vaegan_pl.runs.metrics import BEST, METRICS, read_rows, read_series
from vaegan_pl.storage.files import RefusedError, atomic_write, printable, read_text

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)


@runtime_checkable
class Continued(Protocol):
    """A logger that drops what was logged after a checkpoint when a run resumes from it."""

    def keep(self, before: int) -> None:
        """Drop everything logged at step `before` or later."""


@runtime_checkable
class Album(Protocol):
    """A logger that accepts pictures."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log a picture."""


class _Rows(ExperimentWriter):
    """The rows of `metrics.csv`; rows of an earlier process are kept."""

    def _check_log_dir_exists(self) -> None:
        """Delete nothing, unlike Lightning."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write `hparams.yaml`, atomically."""
        self.hparams.update(params)
        text = yaml.safe_dump(self.hparams, sort_keys=False, allow_unicode=True)
        atomic_write(Path(self.log_dir, self.NAME_HPARAMS_FILE), text, durable=False)

    def keep(self, before: int) -> None:
        """Drop the rows of step `before` and later, and an unfinished last line."""
        rows = [row for row in self._rows() if row["step"] and int(row["step"]) < before]
        self.metrics_keys = sorted({key for row in rows for key, value in row.items() if value})
        if rows:
            atomic_write(Path(self.metrics_file_path), self._text(self.metrics_keys, rows, header=True))
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)

    def save(self) -> None:
        """Append all rows logged since the last call, or none of them.

        Raises:
            OSError: if they cannot be written; the file is unchanged, and the rows are kept for the next call.
        """
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        keys = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
        if keys != self.metrics_keys or not path.exists():
            atomic_write(path, self._text(keys, [*self._rows(), *self.metrics], header=True))
        else:
            size = path.stat().st_size
            try:
                with path.open("ab") as file:
                    file.write(self._text(keys, self.metrics, header=False))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise
        self.metrics_keys, self.metrics = keys, []

    def _rows(self) -> list[dict[str, str]]:
        """The rows of the file, without an unfinished last line."""
        path = Path(self.metrics_file_path)
        return list(read_rows(path)) if path.exists() else []

    @staticmethod
    def _text(keys: Sequence[str], rows: Sequence[Mapping[str, object]], header: bool) -> bytes:
        text = StringIO(newline="")
        writer = csv.DictWriter(text, keys, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


class MetricsFile(CSVLogger):
    """Writes `metrics.csv` and `hparams.yaml`; rows that cannot be written are kept, and writing is retried.

    Args:
        directory: where the files go.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory, name="", version="")
        self.told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """The object that holds the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment

    @rank_zero_only
    def keep(self, before: int) -> None:
        """Drop the rows of step `before` and later, which a resumed run logs again."""
        self._try(lambda: self.experiment.keep(before))

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Write `hparams.yaml`."""
        self._try(lambda: CSVLogger.log_hyperparams(self, *arguments, **options))

    @rank_zero_only
    def save(self) -> None:
        """Write the rows logged since the last call."""
        self._try(super().save)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self.told = False
        except OSError as error:
            if not self.told:
                log.warning("%s cannot be written (%s); its rows are kept, and writing is retried", self.log_dir, error)
            self.told = True


def _attempt(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method, except that after its first failure, which is reported, the logger is no longer used."""

    @wraps(method)
    def attempt(self: "WandB | TensorBoard", *arguments: Any, **options: Any) -> Any:
        if not self.unavailable:
            try:
                return method(self, *arguments, **options)
            except Exception as error:  # W&B, its service process, the network or a disk may raise anything
                if self.unavailable:  # it could not be started, which was reported
                    return None
                self.unavailable = True
                upload = self.upload if isinstance(self, WandB) else ""
                then = f"; to upload what was logged: {upload}" if upload else ""
                log.warning("%s failed (%s); training continues without it%s", self.CALLED, _reason(error), then)
        return None

    return attempt


def _reason(error: Exception) -> str:
    """The error in one line; servers answer with whole pages."""
    return f"{type(error).__name__}: {shorten(str(error), 300, placeholder=' ...')}"


class WandB(WandbLogger):
    """A W&B run that is resumed under its own ID, and whose failures do not stop training.

    A run that should be online is recorded offline if W&B cannot be reached. Its summary holds the best value of each
    metric in `BEST`.

    Args:
        offline: whether the run stays on this machine. If None, WANDB_MODE in the environment decides, and runs stay
            offline if it is not set. WANDB_MODE=disabled always switches W&B off.
        project: the W&B project. If None, WANDB_PROJECT in the environment, or else `vaegan_pl`.
        settings: W&B settings that differ from `SETTINGS`.
        **options: see `lightning.pytorch.loggers.WandbLogger`.

    Raises:
        UserError: if WANDB_MODE or the project is invalid, or the settings contain the API key.
    """

    CALLED = "W&B"
    SETTINGS: ClassVar = {"silent": True, "init_timeout": 30.0, "finish_timeout": 120.0, "finish_timeout_raises": True}
    """No console output from W&B, and limits in seconds on waits for the server; at the end, W&B would wait forever."""

    def __init__(
        self,
        offline: bool | None = None,
        project: str | None = None,
        settings: "wandb.Settings | Mapping[str, Any] | None" = None,
        **options: Any,
    ) -> None:
        self.mode = _wandb_mode(offline)
        project = project or os.environ.get("WANDB_PROJECT") or "vaegan_pl"
        if len(project) > 128 or {*project} & {*"/\\#?%:"}:
            raise UserError(
                f"logger.wandb.project={printable(project)}: must be at most 128 characters, without any of /\\#?%:"
            )
        super().__init__(offline=self.mode == "offline", project=project, **options)
        self._settings = {**self.SETTINGS, **_checked(settings or {})}
        self.unavailable = self.mode == "disabled"
        self.upload = ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; a dummy if W&B is switched off or cannot be started."""
        if self._experiment is None and not self.unavailable:
            self._start()
        return _DummyExperiment() if self._experiment is None else self._experiment

    log_hyperparams = rank_zero_only(_attempt(WandbLogger.log_hyperparams))
    log_metrics = rank_zero_only(_attempt(WandbLogger.log_metrics))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run."""
        if self._experiment is not None:
            self._sum_up(status)
            self._finish(int(status != "success"))

    @rank_zero_only
    @_attempt
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one picture."""
        self.log_image(f"images/{name}", [picture], step=step)

    def _start(self) -> None:
        """Start the W&B run, offline if the server cannot be reached."""
        failures = []
        for mode in (self.mode, "offline"):
            try:
                self._experiment = self._init(mode)
                break
            except Exception as error:  # no key, no network, no service process, no space
                failures.append(_reason(error))
                _end_service()
        else:
            self.unavailable = True
            log.warning("W&B cannot be started (%s); training continues without it", failures[-1])
            return
        online = [] if self._experiment.offline else ["--include-online"]
        self.upload = shlex.join(["wandb", "sync", *online, str(Path(self._experiment.dir).parent)])
        if failures and self.mode != "offline":
            why, how = failures[0], self.upload
            log.warning("W&B could not be reached (%s); the run is recorded offline; to upload it: %s", why, how)

    def _init(self, mode: str) -> Any:
        import wandb

        if mode != "offline":
            _check_settings_of(Path(self.save_dir or "."))
            # W&B sends reports on itself, and would log each one that its server does not accept.
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # `anonymous` makes W&B warn. `resume` lets `wandb sync` number the steps of all parts of a run consecutively.
        options = {name: value for name, value in self._wandb_init.items() if name != "anonymous"}
        run = wandb.init(**{**options, "mode": mode, "settings": wandb.Settings(**self._settings)})
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        for name, best in BEST.items():
            run.define_metric(name, step_metric="trainer/global_step", summary=best)
        return run

    @_attempt
    def _sum_up(self, status: str) -> None:
        """Log the best values of the whole run; for a resumed run, W&B knows only the last part."""
        metrics = Path(self.save_dir or ".") / METRICS
        if metrics.is_file():
            series = read_series(metrics)
            for name, best in BEST.items():
                finite = [value for _, value in series.get(name, []) if math.isfinite(value)]
                if finite:
                    self.experiment.summary[name] = {best: (min if best == "min" else max)(finite)}
        super().finalize(status)

    def _finish(self, exit_code: int) -> None:
        run = self._experiment
        assert run is not None
        try:
            run.finish(exit_code)
        except TimeoutError:
            seconds = self._settings["finish_timeout"]
            log.warning(
                "W&B did not finish uploading the run within %g s; to upload the rest: %s", seconds, self.upload
            )
        except Exception as error:
            _end_service()
            if not self.unavailable:
                log.warning("W&B could not finish (%s); to upload what was logged: %s", _reason(error), self.upload)
        else:
            if not run.offline:
                log.info("W&B          %s; if anything is missing there: %s", run.url, self.upload)
        self.unavailable = True


def _wandb_mode(offline: bool | None) -> str:
    """The requested mode: `online`, `offline` or `disabled`.

    Raises:
        UserError: if WANDB_MODE is none of W&B's modes.
    """
    asked = os.environ.get("WANDB_MODE", "")
    if asked not in ("", "online", "offline", "disabled", "dryrun", "run", "shared"):
        raise UserError(f"WANDB_MODE={printable(asked)}: must be online, offline or disabled")
    if asked == "disabled":
        return asked
    if offline is None:
        offline = asked not in ("online", "run")
    return "offline" if offline else "online"


HARMLESS_SETTINGS = frozenset({"entity", "project", "organization", "mode", "disabled"})
"""The W&B settings that are accepted from the working directory."""


def _checked(settings: "wandb.Settings | Mapping[str, Any]") -> dict[str, Any]:
    """Settings as a dictionary.

    Raises:
        UserError: if they contain the API key, which would be written into the run's files.
        ValueError: if W&B does not know a setting.
    """
    if not settings:
        return {}
    import wandb

    if isinstance(settings, Mapping):
        settings = wandb.Settings(**settings)
    found = {name: getattr(settings, name) for name in settings.model_fields_set}
    if "api_key" in found:
        raise UserError(
            "logger.wandb.settings.api_key: would be saved with the run; run wandb login or set WANDB_API_KEY instead"
        )
    return found


def _end_service() -> None:
    """End W&B's service process or disconnect from it; otherwise the ID of a failed run stays reserved there."""
    import wandb

    with suppress(Exception, SystemExit):  # SystemExit: the service process failed
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


def _check_settings_of(directory: Path) -> None:
    """Check that W&B will not read settings that came with a run, which could send the user's API key elsewhere.

    W&B reads settings from the working directory. The user's own may name a project; anything else may have come with a
    run.

    Raises:
        PermissionError: if there are such settings.
    """
    known = {*HARMLESS_SETTINGS, *(["base_url"] if "WANDB_BASE_URL" in os.environ else [])}
    for path in (Path.cwd() / name / "settings" for name in ("wandb", ".wandb")):
        if not path.exists():
            continue
        try:
            lines = read_text(path).splitlines()
        except (OSError, RefusedError):
            lines = ["?"]
        names = {re.split("[=:]", line)[0].strip().lower() for line in lines if line.strip()[:1] not in ("", "[", "#")}
        if directory.resolve() == Path.cwd() or not names <= known:
            raise PermissionError(
                f"{path} could redirect your API key to another server; remove it, start in another directory, or set "
                "WANDB_BASE_URL to your server"
            )


class TensorBoard(TensorBoardLogger):
    """Writes scalars, options and pictures for TensorBoard; failures do not stop training.

    Args:
        directory: where the event files go.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    CALLED = "TensorBoard"

    def __init__(self, directory: str | Path) -> None:
        try:
            super().__init__(directory, name="", version="", default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard: TensorBoard is not installed; run pip install -e '.[tensorboard]'"
            ) from error
        self.unavailable = False

    log_hyperparams = rank_zero_only(_attempt(TensorBoardLogger.log_hyperparams))
    log_metrics = rank_zero_only(_attempt(TensorBoardLogger.log_metrics))
    save = rank_zero_only(_attempt(TensorBoardLogger.save))
    finalize = rank_zero_only(_attempt(TensorBoardLogger.finalize))

    @rank_zero_only
    @_attempt
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one picture at the last batch, so that a run that resumes after it keeps the picture."""
        self.experiment.add_image(f"images/{name}", np.asarray(picture.convert("L")), step - 1, dataformats="HW")

    @rank_zero_only
    @_attempt
    def keep(self, before: int) -> None:
        """Make TensorBoard drop step `before` and later, which a resumed run logs again, from earlier files."""
        if len(list(Path(self.log_dir).glob("events.*"))) > 1:
            self.experiment.close()
            self._experiment, self._kwargs["purge_step"] = None, before
