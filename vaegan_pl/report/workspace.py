"""A W&B workspace whose sections follow the questions one has of a run or a sweep."""

from typing import TYPE_CHECKING

from vaegan_pl.report.curves import PANELS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

STEP = "trainer/global_step"
"""What every metric is logged against: batches."""

SECTIONS = {
    "Losses": ("loss/", "decoder/"),
    "Discriminator": ("discriminator/", "gate/"),
    "Quality of held-out images and samples": ("validation/",),
}
"""Titles, and how the names of their metrics begin."""

IMAGES = ("images/progress", "images/samples", "images/reconstructions")
SWEPT = ("model.gamma", "optimizer.encoder.lr", "optimizer.decoder.lr", "optimizer.discriminator.lr")
OBJECTIVE = "validation/kid.min"
"""As the summary of a run has it; see `loggers.BEST`."""


def workspace(entity: str, project: str, name: str) -> "Workspace":
    """The workspace; nothing is sent.

    Args:
        entity: W&B user or team.
        project: the project's name.
        name: what the workspace is called.
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
            ParallelCoordinatesPlot(title="options to KID", columns=columns),
            ParameterImportancePlot(with_respect_to=OBJECTIVE),
            *(
                ScatterPlot(title=f"KID against {name}", x=Config(name), y=objective, log_x=True)
                for name in ("model.gamma", "optimizer.discriminator.lr")
            ),
        ],
        is_open=True,
    )
