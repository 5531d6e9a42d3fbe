"""A W&B workspace for runs and sweeps: losses, discriminator, quality, images, options against KID."""

from typing import TYPE_CHECKING

from vaegan_pl.report.curves import PANELS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

STEP = "trainer/global_step"
"""The metric on the x axis of every plot: the batch number."""

SECTIONS = {
    "Losses": ("loss/", "decoder/"),
    "Discriminator": ("discriminator/", "gate/"),
    "Quality of held-out images and samples": ("validation/",),
}
"""Titles of sections, and the prefixes of their metrics."""

IMAGES = ("images/progress", "images/samples", "images/reconstructions")
SWEPT = ("model.gamma", "optimizer.encoder.lr", "optimizer.decoder.lr", "optimizer.discriminator.lr")
OBJECTIVE = "validation/kid.min"
"""The name of the best KID in the summary of a run; see `metrics.BEST`."""


def workspace(entity: str, project: str, name: str) -> "Workspace":
    """The workspace as an object; nothing is sent.

    Args:
        entity: W&B user or team.
        project: name of the W&B project.
        name: title of the workspace.
    """
    from wandb_workspaces import workspaces

    sections = [*_curves(), _images(), _sweep()]
    settings = workspaces.WorkspaceSettings(x_axis=STEP, max_runs=20)
    order = [workspaces.Ordering(workspaces.Summary(OBJECTIVE), ascending=True)]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=settings,
        runset_settings=workspaces.RunsetSettings(order=order),
    )


def _curves() -> "list[Section]":
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Section

    found: dict[str, list[LinePlot]] = {title: [] for title in SECTIONS}
    for title, curves in PANELS.items():
        section = next(name for name, starts in SECTIONS.items() if next(iter(curves)).startswith(starts))
        found[section].append(LinePlot(title=title, x=STEP, y=list(curves), log_y="∇" in title))
    return [Section(name=name, panels=list(panels), is_open=True) for name, panels in found.items()]


def _images() -> "Section":
    from wandb_workspaces.reports.v2 import MediaBrowser
    from wandb_workspaces.workspaces import Section

    panels = [MediaBrowser(title=key.removeprefix("images/"), media_keys=[key]) for key in IMAGES]
    return Section(name="Images", panels=list(panels), is_open=True)


def _sweep() -> "Section":
    from wandb_workspaces.reports.v2 import (
        Config,
        ParallelCoordinatesPlot,
        ParallelCoordinatesPlotColumn,
        ParameterImportancePlot,
        ScatterPlot,
        SummaryMetric,
    )
    from wandb_workspaces.workspaces import Section

    objective = SummaryMetric(OBJECTIVE)
    columns = [ParallelCoordinatesPlotColumn(metric=Config(name), log=True) for name in SWEPT]
    columns.append(ParallelCoordinatesPlotColumn(metric=objective))
    return Section(
        name="Sweeps",
        panels=[
            ParallelCoordinatesPlot(title="options against KID", columns=columns),
            ParameterImportancePlot(with_respect_to=OBJECTIVE),
            *(
                ScatterPlot(title=f"KID against {name}", x=Config(name), y=objective, log_x=True)
                for name in ("model.gamma", "optimizer.discriminator.lr")
            ),
        ],
        is_open=True,
    )
