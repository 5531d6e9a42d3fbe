"""Recording and replaying the step, with a stand-in for CUDA graphs, which runs only what is replayed."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vaegan_pl.cli.train import train
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.losses import Prior
from vaegan_pl.storage import tensor_files
from vaegan_pl.training import lightning_module, recorded
from vaegan_pl.training.lightning_module import VAEGANModule
from vaegan_pl.training.recorded import WARM_UP, Recordings, options, recordable

from ..conftest import SMALL, adversary_with, networks_with, vaegan

Run = Callable[..., str | None]
FIVE_BATCHES = [
    *SMALL,
    "~callbacks.pictures",
    "~callbacks.model_file",
    "data.per_class.Training=20",
    "data.per_class.Testing=4",
    "data.split=official",
    "logger=csv",
]


class StandIn:
    """Records like a CUDA graph: results lie in fixed tensors, which every replay computes anew from the inputs."""

    def __init__(self) -> None:
        self.modules: list[VAEGANModule] = []
        self.replays = 0

    def record(self, function: Callable[..., Any], inputs: Sequence[Tensor | None]) -> tuple[Any, Callable[[], None]]:
        (module,) = self.modules
        optimizers = module.trainer.optimizers
        model = copy.deepcopy(module.model.state_dict())
        states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
        output = function(*inputs)
        module.model.load_state_dict(model)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)

        def replay() -> None:
            self.replays += 1
            for held, now in zip(tree_leaves(_plain(output)), tree_leaves(_plain(function(*inputs))), strict=True):
                if isinstance(held, Tensor):
                    held.copy_(now)

        return output, replay


def _plain(value: Any) -> Any:
    """Tensors in containers that can be walked."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return vars(value) if hasattr(value, "metrics") else value


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()

    def on_train_start(self: VAEGANModule) -> None:
        made.modules = [self]
        self.recordings = Recordings() if self.graph else None

    monkeypatch.setattr(VAEGANModule, "on_train_start", on_train_start)
    monkeypatch.setattr(recorded, "record", made.record)
    # The CPU cannot step a capturable optimizer.
    monkeypatch.setattr(lightning_module, "recordable", lambda optimizer: nullcontext())
    return made


@pytest.mark.parametrize(
    "choices",
    [
        ["model=larsen"],
        ["experiment=larsen_plus", "model.networks.discriminator_norm=spectral", "model.adversary.r1=1.0"],
        ["model=larsen", "model/gate=equilibrium"],
        ["model=larsen", "optimizer=larsen2015", "on_nan=skip"],
        ["model=larsen", "model.prior.free_bits=0.1", "model.networks.classes=4"],
        ["model=gan", "model.networks.encoder_channels=null"],
        ["model=vae", "model.networks.discriminator_channels=null"],
    ],
    ids=" ".join,
)
def test_a_replayed_run_ends_in_the_same_bits(
    choices: list[str], run_command: Run, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for graph in ("false", "true"):
        said = run_command(
            train, "train", *FIVE_BATCHES, *choices, "trainer.max_epochs=3", f"trainer.graph={graph}",
            f"hydra.run.dir=graph_{graph}",
        )  # fmt: skip
        assert said is None, said
    assert stand_in.replays > 10
    with_graph, without = (
        tensor_files.load(Path(f"graph_{graph}/checkpoints/last.ckpt")) for graph in ("true", "false")
    )
    for name, tensor in without["state_dict"].items():
        assert torch.equal(tensor, with_graph["state_dict"][name]), name
    first, second = (torch.utils._pytree.tree_leaves(each["optimizer_states"]) for each in (without, with_graph))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    logged = [Path(f"graph_{graph}/metrics.csv").read_text() for graph in ("false", "true")]
    assert logged[0] == logged[1]


def test_a_function_is_recorded_after_the_warm_up_and_again_when_what_it_depends_on_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded_with: list[float] = []

    def record(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Callable[[], None]]:
        recorded_with.append(float(inputs[0]))
        output = torch.empty(())

        def replay() -> None:
            output.copy_(function(*inputs))

        return output, replay

    monkeypatch.setattr(recorded, "record", record)
    recordings = Recordings()
    for depends in ("lr 1", "lr 2"):
        for i in range(WARM_UP + 2):
            given = torch.tensor(float(i))
            squared, replayed = recordings("square", depends, lambda x: x**2, given)
            assert squared == i**2
            assert replayed == (i >= WARM_UP)
    assert recorded_with == [WARM_UP, WARM_UP]
    assert len(recordings.known) == 1  # the memory of the first is free again


def test_what_cannot_be_recorded_is_computed_piece_by_piece_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(function: object, inputs: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", record)
    recordings = Recordings()
    results = [recordings(name, None, lambda x: x + 1, torch.ones(2)) for name in "aab" for _ in range(4)]
    assert all(torch.equal(value, torch.full((2,), 2.0)) and not replayed for value, replayed in results)
    (said,) = (record.getMessage() for record in caplog.records if record.name == recorded.__name__)
    assert "operation not permitted" in said


@pytest.mark.parametrize("call", range(WARM_UP))
def test_an_error_of_the_function_itself_is_not_taken_for_one_of_recording(call: int) -> None:
    calls = []

    def wrong(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) > call:
            raise RuntimeError("sizes do not match")
        return x

    recordings = Recordings()
    for _ in range(call):
        recordings("a", None, wrong, torch.ones(2))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        recordings("a", None, wrong, torch.ones(2))
    assert len(calls) == call + 1
    assert recordings.works


def test_weights_that_were_cast_in_a_graph_are_not_used_outside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.full((4, 4), 2.0))

    def record(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        function(*inputs)  # casts the weight to bfloat16 and keeps that; in a graph, it would never have been computed
        with torch.no_grad():
            weight.fill_(3.0)  # so that what was kept is wrong
        raise AssertionError("not to be recorded")

    monkeypatch.setattr(recorded, "record", record)
    recordings = Recordings()
    for _ in range(WARM_UP + 1):
        with torch.autocast("cpu", torch.bfloat16):
            result, _ = recordings("product", None, lambda x: x @ weight, torch.ones(1, 4))
    assert torch.equal(result, torch.full((1, 4), 12.0, dtype=torch.bfloat16))


def test_optimizers_of_other_kinds_step_by_themselves(
    run_command: Run, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adam = [f"optimizer.{name}._target_=torch.optim.Adam" for name in ("encoder", "decoder", "discriminator")]
    assert run_command(train, "train", *FIVE_BATCHES, *adam, "trainer.max_epochs=2", "hydra.run.dir=run") is None
    (module,) = stand_in.modules
    assert stand_in.replays == 10 - WARM_UP  # of the gradients
    assert module.recordings is None  # forgotten when training ends


def test_an_optimizer_is_capturable_only_while_it_is_recorded() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    before = options(optimizer)
    with recordable(optimizer):
        assert optimizer.param_groups[0]["capturable"]
        assert optimizer.state[weight]["step"].device == weight.device
    assert options(optimizer) == before
    optimizer.param_groups[0]["lr"] = 0.5
    assert options(optimizer) != before


@pytest.mark.parametrize(
    ("changes", "phases"),
    [
        ({}, {0: 0, 1: 0, 16: 0, 5000: 0}),
        ({"adversary": adversary_with(lecam=0.3)}, {0: None, 889: None, 890: 0}),  # (1 + 890) / (10 + 890) = 0.99
    ],
    ids=["plain", "LeCam"],
)
def test_batches_share_a_phase_when_their_numbers_change_nothing(
    changes: dict[str, Any], phases: dict[int, int | None]
) -> None:
    model = vaegan(networks_with(), **changes)
    assert {number: model.graph_key(number) for number in phases} == phases


def test_r1_is_a_phase_of_its_own() -> None:
    model = vaegan(networks_with(discriminator_norm="group"), adversary=adversary_with(r1=1.0))
    assert [number for number in range(40) if model.graph_key(number) == 1] == [0, 16, 32]


def test_models_and_priors_of_ones_own_are_never_recorded() -> None:
    class Cyclic(Prior):
        pass

    class Own(VAEGAN):
        pass

    assert vaegan(networks_with(), prior=Cyclic(1.0, 0.0)).graph_key(5) is None
    own = vaegan(networks_with())
    own.__class__ = Own
    assert own.graph_key(5) is None
