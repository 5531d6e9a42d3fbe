"""Loggers that outlive their failures: no figure stops a run because it could not be written."""

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
from vaegan_pl.runs.metrics import METRICS, read_rows, read_series
from vaegan_pl.storage.files import RefusedError, atomic_write, printable, read_text

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

BEST = {
    "validation/kid": "min",
    "validation/coverage": "max",
    "validation/variety": "max",
    "validation/psnr": "max",
    "validation/ssim": "max",
}
"""Which value sums up a run, where it is not the last."""


@runtime_checkable
class Continued(Protocol):
    """A logger whose rows after a checkpoint are made again by the run that continues from it."""

    def keep(self, before: int) -> None:
        """Drop what was logged from a step on."""


@runtime_checkable
class Album(Protocol):
    """A logger that takes pictures."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one."""


class _Rows(ExperimentWriter):
    """The rows of `metrics.csv`: those of an earlier process stay."""

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write `hparams.yaml`, in one step."""
        self.hparams.update(params)
        text = yaml.safe_dump(self.hparams, sort_keys=False, allow_unicode=True)
        atomic_write(Path(self.log_dir, self.NAME_HPARAMS_FILE), text, durable=False)

    def keep(self, before: int) -> None:
        """Drop the rows of steps that will be made again, and whatever was not finished."""
        rows = [row for row in self._rows() if row["step"] and int(row["step"]) < before]
        self.metrics_keys = sorted({key for row in rows for key, value in row.items() if value})
        if rows:
            atomic_write(Path(self.metrics_file_path), self._text(self.metrics_keys, rows, header=True))
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)

    def save(self) -> None:
        """Append the rows that were logged since the last time, or none of them.

        Raises:
            OSError: if they cannot be written; the file then stays as it was, and the rows wait.
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
        """The rows of the file, but for a last line that was not finished."""
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
    """`metrics.csv` and `hparams.yaml`; rows that cannot be written wait until they can.

    Args:
        directory: where they go.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory, name="", version="")
        self.told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """What holds the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment

    @rank_zero_only
    def keep(self, before: int) -> None:
        """Continue at a step: the rows of that step and those after it will be made again."""
        self._try(lambda: self.experiment.keep(before))

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Write `hparams.yaml`."""
        self._try(lambda: CSVLogger.log_hyperparams(self, *arguments, **options))

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were logged since the last time."""
        self._try(super().save)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self.told = False
        except OSError as error:
            if not self.told:
                log.warning("%s cannot be written (%s); its rows are kept until it can", self.log_dir, error)
            self.told = True


def _attempt(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but a failure is told once and the logger then left alone."""

    @wraps(method)
    def attempt(self: "WandB | TensorBoard", *arguments: Any, **options: Any) -> Any:
        if not self.unavailable:
            try:
                return method(self, *arguments, **options)
            except Exception as error:  # whatever W&B, its service process, the network or a disk do
                if self.unavailable:  # it could not be started, and said so
                    return None
                self.unavailable = True
                upload = self.upload if isinstance(self, WandB) else ""
                then = f"; to upload what was logged: {upload}" if upload else ""
                log.warning("%s failed (%s); training goes on without it%s", self.CALLED, _reason(error), then)
        return None

    return attempt


def _reason(error: Exception) -> str:
    """What went wrong, in one line; servers answer with whole pages."""
    return f"{type(error).__name__}: {shorten(str(error), 300, placeholder=' ...')}"


class WandB(WandbLogger):
    """A W&B run that is continued under its own id, and whose failures do not stop training.

    A run that was to be sent to W&B, and cannot be, is kept offline. The summary holds the best value of each of
    `BEST`.

    Args:
        offline: whether the run stays on this machine. If None, WANDB_MODE in the environment decides, and without it
            the run stays. WANDB_MODE=disabled switches W&B off in any case.
        project: the project in W&B. If None, WANDB_PROJECT in the environment, else `vaegan_pl`.
        settings: W&B's settings, where they differ from `SETTINGS`.
        **options: see `lightning.pytorch.loggers.WandbLogger`.
    """

    CALLED = "W&B"
    SETTINGS: ClassVar = {"silent": True, "init_timeout": 30.0, "finish_timeout": 120.0, "finish_timeout_raises": True}
    """Silences W&B's output, and limits the seconds to wait for the server; W&B's default at the end is forever."""

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
                f"logger.wandb.project={printable(project)}: must be of 128 letters at most, without /\\#?%:"
            )
        super().__init__(offline=self.mode == "offline", project=project, **options)
        self._settings = {**self.SETTINGS, **_checked(settings or {})}
        self.unavailable = self.mode == "disabled"
        self.upload = ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; what does nothing, where W&B is switched off or cannot be started."""
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
        """Start W&B's run, offline where the server cannot be reached."""
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
            log.warning("W&B cannot be started (%s); training goes on without it", failures[-1])
            return
        online = [] if self._experiment.offline else ["--include-online"]
        self.upload = shlex.join(["wandb", "sync", *online, str(Path(self._experiment.dir).parent)])
        if failures and self.mode != "offline":
            why, how = failures[0], self.upload
            log.warning("W&B could not be reached (%s); the run is kept offline; to upload it: %s", why, how)

    def _init(self, mode: str) -> Any:
        import wandb

        if mode != "offline":
            _check_settings_of(Path(self.save_dir or "."))
            # W&B reports on itself to its server, and would tell of each report that was not taken.
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # `anonymous` makes W&B warn; `resume` lets `wandb sync` number the steps of several parts of a run as one.
        options = {name: value for name, value in self._wandb_init.items() if name != "anonymous"}
        run = wandb.init(**{**options, "mode": mode, "settings": wandb.Settings(**self._settings)})
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        for name, best in BEST.items():
            run.define_metric(name, step_metric="trainer/global_step", summary=best)
        return run

    @_attempt
    def _sum_up(self, status: str) -> None:
        """Log the best values of the whole run, of which W&B knows the last part alone if it was continued."""
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
    """What is asked for: `online`, `offline` or `disabled`.

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
"""What W&B's settings in the working directory may hold."""


def _checked(settings: "wandb.Settings | Mapping[str, Any]") -> dict[str, Any]:
    """Settings as a dictionary.

    Raises:
        UserError: if they hold the API key, which would be written into the files of the run.
        ValueError: if W&B does not have them.
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
    """End W&B's service process, or leave that of another process: the id of a run that failed stays taken there."""
    import wandb

    with suppress(Exception, SystemExit):  # SystemExit: the service process failed
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


def _check_settings_of(directory: Path) -> None:
    """Stop where W&B would read settings that came with a run: they say where the user's key is sent.

    W&B reads those of the working directory. They may be the user's own, and name a project; whatever else they hold
    may have come with a run.

    Raises:
        PermissionError: for such settings.
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
    """Scalars, options and pictures for TensorBoard; its failures do not stop training.

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
            raise UserError("logger=tensorboard: is not installed; pip install -e '.[tensorboard]'") from error
        self.unavailable = False

    log_hyperparams = rank_zero_only(_attempt(TensorBoardLogger.log_hyperparams))
    log_metrics = rank_zero_only(_attempt(TensorBoardLogger.log_metrics))
    save = rank_zero_only(_attempt(TensorBoardLogger.save))
    finalize = rank_zero_only(_attempt(TensorBoardLogger.finalize))

    @rank_zero_only
    @_attempt
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one picture; at the last batch, so that a run that continues after it keeps the picture."""
        self.experiment.add_image(f"images/{name}", np.asarray(picture.convert("L")), step - 1, dataformats="HW")

    @rank_zero_only
    @_attempt
    def keep(self, before: int) -> None:
        """Continue at a step: TensorBoard forgets what earlier files hold of that step and those after it."""
        if len(list(Path(self.log_dir).glob("events.*"))) > 1:
            self.experiment.close()
            self._experiment, self._kwargs["purge_step"] = None, before
