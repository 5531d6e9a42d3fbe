"""The explore command: what it refuses, and where it looks for training images."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.cli.explore import explore, training_images
from vaegan_pl.cli.train import train
from vaegan_pl.errors import UserError
from vaegan_pl.model import weights
from vaegan_pl.report.provenance import sha256

from .conftest import SMALL, networks_with, save_model
from .processes import started

Run = Callable[..., str | None]
pytest.importorskip("gradio")

from vaegan_pl.explorer.studio import Studio  # noqa: E402


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(*options: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("explore", [*options])


def studio(path: str) -> Studio:
    return Studio(path, Path(path), sha256(Path(path)), weights.load(Path(path)))


def test_it_listens_to_this_machine_alone_unless_told_otherwise() -> None:
    chosen = config()
    assert (chosen.host, chosen.port) == ("127.0.0.1", None)
    assert chosen.weights == "outputs/latest/vae_gan_model.pth"


class Code:
    """What a hostile file would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_mistakes_end_with_one_clear_message(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(run_command(explore, "explore"))
    assert message.startswith("error: weights=outputs/latest/vae_gan_model.pth: no such file; a training run writes")
    torch.save({"state_dict": Code()}, "code.pth")
    message = str(run_command(explore, "explore", "weights=code.pth"))
    assert message.startswith("error: weights=code.pth: ")
    assert not Path("ran").exists()
    save_model(Path("m.pth"), networks_with())
    assert run_command(explore, "explore", "weights=[]") == "error: weights=[]: give at least one model file"
    message = str(run_command(explore, "explore", "weights=m.pth", "port=0"))
    assert message == "error: port=0: must be a number from 1 to 65535, or null for the first free one"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = started("vaegan_pl.explore", "weights=m.pth", f"port={port}", "open=false")
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    said = output.strip().splitlines()[-1]
    assert said.startswith(f"error: host=127.0.0.1 port={port}: ")
    assert "port=null" in said
    assert "Traceback" not in output
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("server", "page"):
        monkeypatch.delitem(sys.modules, f"vaegan_pl.explorer.{name}", raising=False)
    message = str(run_command(explore, "explore", "weights=m.pth"))
    assert message == "error: the page needs Gradio; pip install -e '.[explore]'"


def test_what_it_made_is_gone_when_it_is_told_to_end() -> None:
    save_model(Path("m.pth"), networks_with())
    Path("made").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "GRADIO_TEMP_DIR": str(Path("made").resolve()),
    }
    command = [sys.executable, "-m", "vaegan_pl.explore", "weights=m.pth", "open=false", "accelerator=cpu"]
    with Path("log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    end, found = time.monotonic() + 120, None
    while found is None:
        assert process.poll() is None, Path("log").read_text()
        assert time.monotonic() < end
        time.sleep(0.1)
        found = re.search(r"open (\S+) in a browser", Path("log").read_text())
    with urlopen(found[1]) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(found[1], headers={"Host": "elsewhere.example"}))
    (folder,) = Path("made").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    process.terminate()
    assert process.wait(60) == 143
    assert list(Path("made").iterdir()) == []


def test_training_images_are_those_that_the_run_names(run_command: Run) -> None:
    few = ["data.per_class.Training=20", "data.per_class.Testing=20", "trainer.max_epochs=1", "logger=csv"]
    assert run_command(train, "train", *SMALL, *few, "hydra.run.dir=run", "trainer.log_every_n_steps=1") is None
    model = studio("run/vae_gan_model.pth")
    find = training_images(config("accelerator=cpu"))
    found = find(model)
    assert len(found.images) == sum(model.model.trained_on.counts["train"].values())
    assert all(path.is_file() for path, _ in found.held_out)
    assert find(model) is found
    Path("outputs/phantoms").rename("elsewhere")
    with pytest.raises(UserError, match=r"outputs/phantoms: the model's training images are not there; start"):
        training_images(config())(model)
    given = config("data=mri", "data.root=elsewhere", "data.image_size=32")
    assert torch.equal(training_images(given)(model).images, found.images)
    other = config("data=mri", "data.root=elsewhere", "data.image_size=32", "data.split_seed=1")
    with pytest.raises(UserError, match="was trained with seed 0"):
        training_images(other)(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.yaml: is missing"),
        ("data: {root: /private, cache: /elsewhere}", "the images were in /private, outside the run's directory"),
        (
            "data: {_target_: os.system, root: x}",
            "sets data._target_=os.system, which is not accepted from a run's directory",
        ),
        ("data: {root: '${oc.env:HOME}'}", "the images were in .*HOME}, outside the run's directory"),
        ("[1, 2]", "does not say which images the model was trained on"),
        ("data: {", "is damaged"),
    ],
)
def test_a_run_that_names_none_or_something_strange_is_refused(text: str | None, message: str) -> None:
    save_model(Path("m.pth"), networks_with())
    if text is not None:
        Path("config.yaml").write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        training_images(config())(studio("m.pth"))
