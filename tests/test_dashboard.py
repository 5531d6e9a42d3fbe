"""The W&B workspace, as it would be sent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.cli.dashboard import dashboard
from vaegan_pl.report.curves import PANELS

Run = Callable[..., str | None]
pytest.importorskip("wandb_workspaces")


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sections(workspace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def test_it_shows_every_curve_the_pictures_and_the_sweep(run_command: Run) -> None:
    assert run_command(dashboard, "dashboard", "entity=me", "project=mine") is None
    workspace = json.loads(Path("outputs/dashboard/workspace.json").read_text())
    assert (workspace["entity"], workspace["project"]) == ("me", "mine")
    found = sections(workspace)
    assert list(found) == ["Losses", "Discriminator", "Quality of held-out images and samples", "Images", "Sweeps"]
    lines = [panel["config"] for panels in found.values() for panel in panels if "Line Plot" in panel["viewType"]]
    assert {line["xAxis"] for line in lines} == {"trainer/global_step"}
    assert {metric for line in lines for metric in line["metrics"]} == {m for curves in PANELS.values() for m in curves}
    assert [panel["config"]["mediaKeys"] for panel in found["Images"]] == [
        ["images/progress"],
        ["images/samples"],
        ["images/reconstructions"],
    ]
    shown = json.dumps(found["Sweeps"])
    assert "config:model.value.gamma" in shown
    assert "summary:validation/kid.min" in shown


def test_what_wandb_refuses_is_one_message(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import Workspace

    def refuse(_: object) -> None:
        raise ValueError("no such project")

    monkeypatch.setattr(Workspace, "save", refuse)
    output = run_command(dashboard, "dashboard", "entity=me", "project=mine", "offline=false")
    assert output is not None
    assert output.startswith("error: W&B did not accept a workspace for me/mine (ValueError: no such project)")
    assert "run wandb login" in output


def test_wandbs_own_sweep_names_options_that_exist() -> None:
    sweep = yaml.safe_load((CONFIG_DIRECTORY / "wandb_sweep.yaml").read_text())
    assert sweep["metric"] == {"name": "validation/kid", "goal": "minimize"}
    overrides = [f"{name}={each['min']}" for name, each in sweep["parameters"].items()]
    fixed = [word for word in sweep["command"] if "=" in word]
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = compose("train", [*overrides, *fixed])
    assert config.model.gamma == 3e-4
    assert config.optimizer.discriminator.lr == 1e-5
    assert config.logger.wandb.offline is False
