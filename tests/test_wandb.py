"""W&B with servers that are well, broken, silent or not there: what was logged is always somewhere, and told."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import wandb
from omegaconf import OmegaConf
from PIL import Image

from vaegan_pl.cli.train import train
from vaegan_pl.errors import UserError
from vaegan_pl.runs.metrics import read_series
from vaegan_pl.training.loggers import WandB

from .conftest import SMALL

KEY = 40 * "5"
FEW = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=1",
    "~callbacks.model_file",
]
ONLINE = "logger.wandb.offline=false"
BATCHES = 4
PICTURES = ["images/progress", "images/reconstructions", "images/samples"]
TAKES_ALL = {"init_timeout": 5.0, "finish_timeout": 5.0}


class Server(ThreadingHTTPServer):
    """As much of W&B's server as a run needs.

    Args:
        state: `well`, `silent`, or the number of the error that it answers everything with.
    """

    daemon_threads = True

    def __init__(self, state: str = "well") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = state
        self.streams: dict[str, list[str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.projects: list[str] = []
        self.awake = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]

    def handle_error(self, *_: object) -> None:
        """Nobody minds who hangs up."""

    def stop(self) -> None:
        self.awake.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.keys.append(self.headers.get("Authorization", ""))
        if self.server.state == "silent":
            self.server.awake.wait()
            return
        code = int(self.server.state) if self.server.state.isdigit() else 200
        content = self.content(body) if code == 200 else {"errors": [{"message": "something is wrong"}]}
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def content(self, body: bytes) -> dict[str, Any]:
        if self.path.startswith("/upload/"):
            self.server.uploads[self.path.removeprefix("/upload/")] = body
        elif self.path.endswith("/file_stream"):
            for name, part in (json.loads(body).get("files") or {}).items():
                lines = self.server.streams.setdefault(name, [])
                lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        elif self.path == "/graphql":
            asked = json.loads(body)
            return {"data": self.data(asked["query"], asked.get("variables") or {})}
        return {}

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        history = self.server.streams.get("wandb-history.jsonl", [])
        project = {"id": "P", "name": "p", "entity": {"id": "E", "name": "me"}}
        run = {"id": "R", "name": variables.get("name"), "displayName": "a run", "historyLineCount": len(history)}
        run |= {
            "config": "{}",
            "summaryMetrics": "{}",
            "wandbConfig": '{"t": {}}',
            "historyTail": json.dumps(history[-1:]),
        }
        run |= {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [], "project": project}
        if "upsertBucket" in query:
            self.server.projects.append(variables.get("project", ""))
            return {"upsertBucket": {"bucket": run, "inserted": not history}}
        if "RunResumeStatus" in query:
            return {"model": {**project, "bucket": run if history else None}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}}


Serve = Callable[..., Server]
Train = Callable[..., None]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh directory and home, no W&B in the environment, and W&B reads all that anew."""
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield
        wandb.teardown()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Server]]:
    """Starts a server, which W&B then uses, with a key."""
    started = []

    def start(state: str = "well") -> Server:
        started.append(Server(state))
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        return started[-1]

    yield start
    wandb.teardown()
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the phantoms."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def trains(run_command: Callable[..., str | None], outputs: Path) -> Train:
    """Trains in `run`, to the end and in bounded time."""

    def run(*options: str) -> None:
        begun = time.monotonic()
        assert run_command(train, "train", *FEW, f"output_root={outputs}", "hydra.run.dir=run", *options) is None
        assert time.monotonic() - begun < 60

    return run


def limits(init: float = 5.0, finish: float = 10.0) -> list[str]:
    return [f"+logger.wandb.settings.init_timeout={init}", f"+logger.wandb.settings.finish_timeout={finish}"]


def call_wandb(*arguments: str) -> str:
    command = [sys.executable, "-m", "wandb", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout


def held(pattern: str) -> dict[str, Any]:
    """What the only folder of W&B with such a name in `run` holds: history, summary, axes, configuration, project."""
    (file,) = Path("run/wandb").glob(f"{pattern}/*.wandb")
    found: dict[str, Any] = {"history": [], "summary": {}, "axes": {}, "config": {}}
    for record in map(json.loads, call_wandb("leet", "inspect", "--json", str(file)).splitlines()):
        if record["type"] == "run":
            found |= record["run"] | {"config": record["run"]["config"]["update"]}
        elif record["type"] == "history":
            found["history"].append(record["history"]["item"])
        elif record["type"] == "metric":
            metric = record["metric"]
            found["axes"][metric.get("glob_name") or metric["name"]] = metric.get("step_metric")
        elif record["type"] == "config":
            found["config"] |= record["config"]["update"]
        elif record["type"] == "summary":
            found["summary"] |= record["summary"]["update"]
    return found


def series(history: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(item["trainer/global_step"], item[name]) for item in history if name in item]


def assert_whole(history: list[dict[str, Any]]) -> None:
    """Every row of `metrics.csv` and every picture is in it."""
    expected = read_series(Path("run/metrics.csv"))
    assert [step for step, _ in expected["loss/llike"]] == list(range(BATCHES))
    for name, values in expected.items():
        if name in ("step", "epoch"):
            continue
        found = series(history, name)
        assert [step for step, _ in found] == [step for step, _ in values], name
        assert [value for _, value in found] == pytest.approx([value for _, value in values]), name
    assert "validation/psnr" in expected
    pictures = [name.removesuffix(".count") for item in history for name in item if name.endswith(".count")]
    if not pictures:  # as the server gets them
        pictures = [name for item in history for name in item if name.startswith("images/")]
    assert sorted(pictures) == PICTURES


def told(output: str, words: str) -> str:
    """The only line that has some words."""
    (line,) = (line for line in re.split("[\r\n]", output) if words in line)
    return line


def run_told(line: str) -> None:
    """Call W&B as the end of a line says."""
    words = shlex.split(line[line.index("wandb sync") :])
    assert words[0] == "wandb"
    call_wandb(*words[1:])


def assert_no_key(output: str) -> None:
    """Neither the console nor a file of the run shows the key."""
    assert KEY not in output
    for path in Path("run").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def assert_told(output: str, why: str) -> str:
    """W&B's failure is told in one line, with its cause and how to upload the run; returns the line."""
    line = told(output, "W&B could not be reached")
    assert why in line
    (folder,) = Path("run/wandb").resolve().glob("offline-run-*")
    assert line.endswith(f"; the run is recorded offline; to upload it: wandb sync {folder}")
    assert "Traceback" not in output
    assert "WANDB_MODE" not in os.environ
    assert_no_key(output)
    return line


@pytest.mark.parametrize(
    ("state", "why"), [("no key", "No API key configured"), ("gone", "connection refused"), ("500", "HTTP 500")]
)
def test_a_run_that_cannot_be_sent_is_kept_whole(
    trains: Train,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    state: str,
    why: str,
) -> None:
    server = serve(state)
    if state == "gone":
        server.stop()
    if state == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    trains(ONLINE, *limits(init=1.0))
    kept = held("offline-run-*")
    assert_whole(kept["history"])
    assert kept["config"]["model"]["networks"]["latent_dim"] == 16
    assert kept["project"] == "vaegan_pl"
    assert kept["axes"]["*"] == kept["axes"]["validation/kid"] == "trainer/global_step"
    assert {"loss/llike", "validation/psnr", "images/progress.count"} <= kept["summary"].keys()
    line = assert_told("".join(capfd.readouterr()), why)
    if state == "gone":
        server = serve()
        run_told(line)
        assert_whole(server.history)
        assert any(name.startswith("media/images/") for name in server.uploads)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("silent", "context deadline exceeded"),
        ("401", "returned error 401"),
        ("short key", "API key must have 40+ characters"),
    ],
)
def test_whatever_a_server_answers_the_run_is_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, state: str, why: str
) -> None:
    serve(state)
    if state == "short key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    begun = time.monotonic()
    logger = WandB(offline=False, save_dir=Path("run").resolve(), id="one", settings={"init_timeout": 1.0})
    for step in range(3):
        logger.log_metrics({"loss/gan": float(step)}, step)
    logger.finalize("success")
    assert time.monotonic() - begun < 20
    assert series(held("offline-run-*")["history"], "loss/gan") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert_told("\n".join(record.getMessage() for record in caplog.records), why)


def test_a_run_that_is_sent_arrives(trains: Train, serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    server = serve()
    trains(ONLINE, *limits())
    assert_whole(server.history)
    assert sorted(name.split("_")[0] for name in server.uploads if name.startswith("media")) == [
        f"media/images/{picture}" for picture in PICTURES
    ]
    output = "".join(capfd.readouterr())
    assert f"{server.url}/me/p/runs/{OmegaConf.load('run/config.yaml').run_id}" in output
    assert "could not" not in output
    assert_no_key(output)


class Break(L.Callback):
    """Breaks the server at a hook."""

    server: Server
    state = ""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.act)

    def act(self, *_: object) -> None:
        if Break.state == "gone":
            Break.server.stop()
            Break.state = ""
        elif Break.state:
            Break.server.state = Break.state


@pytest.mark.parametrize(("hook", "state"), [("on_train_batch_end", "gone"), ("on_fit_end", "silent")])
def test_a_server_that_breaks_later_loses_nothing(
    trains: Train, serve: Serve, capfd: pytest.CaptureFixture[str], hook: str, state: str
) -> None:
    Break.server, Break.state = serve(), state
    breaks = ["+callbacks.break._target_=tests.test_wandb.Break", f"+callbacks.break.hook={hook}"]
    trains(ONLINE, *limits(finish=1.0), *breaks)
    assert_whole(held("run-*")["history"])
    line = told(
        "".join(capfd.readouterr()), "W&B did not finish uploading the run within 1 s; to upload the rest: wandb sync"
    )
    server = serve()
    run_told(line)
    assert_whole(server.history)


def test_the_parts_of_a_run_are_joined_by_sync(serve: Serve) -> None:
    for part in range(2):
        logger = WandB(offline=True, save_dir="run", id="one")
        for step in range(3 * part, 3 * part + 3):
            logger.log_metrics({"loss/gan": float(step)}, step)
        logger.log_picture("samples", Image.new("L", (8, 8), part), 3 * part + 3)
        logger.finalize("success")
    server = serve()
    call_wandb("sync", *map(str, sorted(Path("run/wandb").glob("offline-run-*"))))
    assert series(server.history, "loss/gan") == [(step, float(step)) for step in range(6)]
    assert [item["_step"] for item in server.history] == list(range(8))
    assert len([name for name in server.uploads if name.startswith("media/images/images/samples")]) == 2


@pytest.mark.parametrize(
    ("environment", "option", "mode"),
    [
        ("", None, "offline"),
        ("", False, "online"),
        ("online", None, "online"),
        ("online", True, "offline"),
        ("offline", None, "offline"),
        ("offline", False, "online"),
        ("dryrun", None, "offline"),
        ("run", None, "online"),
        ("disabled", None, "disabled"),
        ("disabled", False, "disabled"),
        ("disabled", True, "disabled"),
    ],
)
def test_the_environment_says_what_the_options_do_not(
    monkeypatch: pytest.MonkeyPatch, environment: str, option: bool | None, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    assert WandB(offline=option).mode == mode


def test_an_option_counts_more_than_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for options in ({}, {"project": "other"}):
        logger = WandB(offline=False, save_dir="run", settings=TAKES_ALL, **options)
        logger.log_metrics({"loss/gan": 1.0}, 0)
        logger.finalize("success")
    assert [item["loss/gan"] for item in server.history] == [1.0, 1.0]
    assert server.projects[0] == "mine"
    assert "other" in server.projects
    logger = WandB(save_dir="run")
    logger.log_metrics({"loss/gan": 1.0}, 0)
    logger.finalize("success")
    assert held("offline-run-*")["project"] == "mine"


def test_wandb_that_is_disabled_leaves_nothing(
    trains: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trains(ONLINE)
    assert Path("run/metrics.csv").exists()
    assert not Path("run/wandb").exists()
    output = "".join(capfd.readouterr())
    assert "W&B" not in output
    assert "wandb sync" not in output


def test_a_run_begins_without_warnings(
    trains: Train, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub.inference", raising=False)  # Gradio's, of other tests
    trains()
    output = capfd.readouterr()
    assert output.out.startswith("device ")
    assert "wandb:" not in output.out + output.err
    assert "W&B          offline; to upload it: wandb sync" in output.out


def test_settings_of_the_working_directory_may_name_a_project_and_no_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = serve()
    monkeypatch.delenv("WANDB_BASE_URL")
    Path("wandb").mkdir()
    Path("wandb/settings").write_text(f"[default]\nbase_url = {stranger.url}\n")
    logger = WandB(offline=False, save_dir="run", settings=TAKES_ALL)
    logger.log_metrics({"loss/gan": 1.0}, 0)
    logger.finalize("success")
    assert stranger.keys == []
    assert "wandb/settings could redirect your API key to another server" in caplog.text


@pytest.mark.parametrize("mode", ["bogus", "a\x1bb"])
def test_unknown_modes_and_projects_are_refused(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.project=a/b: must be"):
        WandB(project="a/b")
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(UserError, match=r"WANDB_MODE=.*: must be online, offline or disabled") as refusal:
        WandB()
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize("inside", [True, False])
def test_settings_that_came_with_a_run_do_not_get_the_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    stranger = serve()
    run = Path("run").resolve()
    (run / "wandb").mkdir(parents=True)
    (run / "wandb" / "settings").write_text(f"[default]\nbase_url = {stranger.url}\n")
    if inside:
        monkeypatch.delenv("WANDB_BASE_URL")
        monkeypatch.chdir(run)
    else:
        owners = serve()
    logger = WandB(offline=False, save_dir=run, settings=TAKES_ALL)
    logger.log_metrics({"loss/gan": 1.0}, 0)
    logger.finalize("success")
    assert stranger.keys == []
    monkeypatch.chdir(run.parent)
    if inside:
        assert f"{run}/wandb/settings could redirect your API key to another server" in caplog.text
        assert series(held("offline-run-*")["history"], "loss/gan") == [(0, 1.0)]
    else:
        assert series(owners.history, "loss/gan") == [(0, 1.0)]


def test_settings_of_the_user_are_merged() -> None:
    for settings in ({"init_timeout": 7.0}, wandb.Settings(init_timeout=7.0)):
        found = WandB(settings=settings)._settings
        assert found == {**WandB.SETTINGS, "init_timeout": 7.0}
    with pytest.raises(ValueError, match="init_tiemout"):
        WandB(settings={"init_tiemout": 7.0})
    with pytest.raises(UserError, match=r"logger\.wandb\.settings\.api_key") as refusal:
        WandB(settings={"api_key": KEY})
    assert KEY not in str(refusal.value)


def test_a_service_of_another_process_is_left(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it the id of a run that failed would stay taken."""
    program = "import os, wandb; wandb.setup(); print(os.environ['WANDB_SERVICE'], flush=True); input()"
    serve("401")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        monkeypatch.setenv("WANDB_SERVICE", other.stdout.readline().strip())
        logger = WandB(offline=False, save_dir="run", id="one", settings=TAKES_ALL)
        logger.log_metrics({"loss/gan": 1.0}, 0)
        logger.finalize("success")
        other.communicate("\n")
    assert series(held("offline-run-*")["history"], "loss/gan") == [(0, 1.0)]


def test_a_run_that_cannot_be_finished_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish = wandb.Run.finish

    def fail(run: wandb.Run, exit_code: int) -> None:
        finish(run, exit_code)  # else its hooks stay in standard output
        raise ConnectionResetError("Connection lost")

    logger = WandB(offline=True, save_dir="run")
    logger.log_metrics({"loss/gan": 1.0}, 0)
    monkeypatch.setattr(wandb.Run, "finish", fail)
    logger.finalize("failed")
    (folder,) = Path("run/wandb").glob("offline-run-*")
    failed = "W&B could not finish (ConnectionResetError: Connection lost); to upload what was logged: wandb sync "
    assert failed + str(folder) in caplog.text
