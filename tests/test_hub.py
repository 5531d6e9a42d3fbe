"""Publishing and fetching models, with a local server in place of the Hugging Face Hub."""

import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from vaegan_pl.cli.pull import pull
from vaegan_pl.cli.push import push
from vaegan_pl.model import weights
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.report import model_card

Run = Callable[..., str | None]
COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """As much of the Hub's interface as one repository needs: `me/heads`, for whoever has the token `mine`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, object]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer mine":
            self._answer(401)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(content))
            self._json({"url": f"{self.server.url}/me/heads"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"{self.server.url}/me/heads/commit/{COMMIT}", "commitOid": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if not self.path.startswith("/me/heads/resolve/"):
            self._answer(404, X_Error_Code="RepoNotFound")
        elif name not in self.server.files:
            self._answer(404, X_Error_Code="EntryNotFound")
        else:
            content = self.server.files[name]
            self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path, small_networks: Networks, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("vae_gan_model.pth")
    weights.save(path, small_networks, {"colour": "grey"}, TrainedOn("phantom", "p", ["a"], {}, "PHANTOMS"), {})
    model_card.write(path, model_card.text(path, weights.load(path), ["- nothing measured"]))
    return path


@pytest.fixture
def at_hub(hub: Hub, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with this Hub and its token."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "mine")
    return run_command


def test_a_model_comes_back_as_it_was_pushed(
    hub: Hub, model: Path, at_hub: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert at_hub(push, "push", f"weights={model}", "repo=me/heads", "license=cc-by-4.0") is None
    assert "private" in (hub.created[0].get("visibility"), *hub.created[0])  # by the version of huggingface_hub
    assert hub.files["vae_gan_model.pth"] == model.read_bytes()
    front, card = hub.files["README.md"].decode().removeprefix("---\n").split("---\n\n", 1)
    assert yaml.safe_load(front) == {
        "library_name": "vaegan_pl",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["vae-gan", "medical-imaging", "synthetic"],
        "license": "cc-by-4.0",
    }
    assert card == Path("model_card.md").read_text()

    monkeypatch.delenv("HF_TOKEN")
    assert at_hub(pull, "pull", "repo=me/heads", "output=fetched") is None
    assert Path("fetched/vae_gan_model.pth").read_bytes() == model.read_bytes()
    assert hashlib.sha256(model.read_bytes()).hexdigest() in capsys.readouterr().out
    assert sorted(path.name for path in Path("fetched").iterdir()) == ["model_card.md", "vae_gan_model.pth"]
    again = at_hub(pull, "pull", "repo=me/heads", "output=fetched")
    assert "fetched/model_card.md: was not written by this project" in str(again)


def test_a_file_that_is_no_model_is_not_written(hub: Hub, model: Path, at_hub: Run) -> None:
    hub.files = {"vae_gan_model.pth": b"cos\nsystem\n", "README.md": b""}
    assert str(at_hub(pull, "pull", "repo=me/heads", "output=fetched")).startswith("error: ")
    assert not Path("fetched").exists()


def test_the_hubs_refusals_are_one_line(model: Path, at_hub: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo, message in (
        ("me/heads", "repo=me/heads: contains no vae_gan_model.pth"),
        ("me/nothing", "repo=me/nothing: there is no such repository"),
        ("'a b'", "repo=a b: is not the name of a repository on the Hub, USER/NAME"),
    ):
        found = str(at_hub(pull, "pull", f"repo={repo}", "output=fetched"))
        assert message in found
        assert "\n" not in found
    monkeypatch.setenv("HF_TOKEN", "another")
    assert "the Hub refused the token (401)" in str(at_hub(push, "push", f"weights={model}", "repo=me/heads"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in str(at_hub(pull, "pull", "repo=me/heads", "output=fetched"))


def test_a_model_needs_its_own_card(model: Path, run_command: Run) -> None:
    card = Path("model_card.md")
    written = card.read_text()
    card.unlink()
    assert "model_card.md: there is no model card" in str(run_command(push, "push", f"weights={model}", "repo=a/b"))
    card.write_text(
        written.replace("SHA-256 ", "SHA-512 of ").replace(hashlib.sha256(model.read_bytes()).hexdigest(), "")
    )
    assert "is the card of another model file" in str(run_command(push, "push", f"weights={model}", "repo=a/b"))


def test_without_the_package_one_line_says_how_to_install_it(
    model: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run_command(pull, "pull", "repo=a/b", "output=fetched") == (
        "error: the Hugging Face Hub needs huggingface_hub: run pip install -e '.[hub]'"
    )
