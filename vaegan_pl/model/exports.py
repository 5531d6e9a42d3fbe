"""Export for other programs: encoder and decoder, each checked against the networks, and the density of samples."""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaegan_pl.errors import UserError
from vaegan_pl.model.mixtures import ClassMixtures
from vaegan_pl.model.networks import Networks
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY

TOLERANCE = 1e-4
CHECKED = (1, 3, 16)
"""Batch sizes at which an export is compared; none is the size it was traced with."""

INPUTS = {"encoder": "images", "decoder": "z"}
DENSITY = "density.npz"
"""The file that says where to draw z."""

OUTPUTS = {"encoder": ["mean", "log_variance"], "decoder": ["images"]}

Inputs = tuple[Tensor, ...]
"""Images or latents and, for conditional networks, their class indices."""

Runner = Callable[[Inputs], list[Tensor]]


def export(networks: Networks, file_format: str, directory: Path, metadata: Mapping[str, Any]) -> dict[Path, float]:
    """Write the encoder and the decoder for batches of any size, and compare the files' outputs with PyTorch's.

    Args:
        networks: in evaluation mode on the CPU, in float32.
        file_format: one of `FORMATS`.
        directory: the folder for `encoder.SUFFIX` and `decoder.SUFFIX`.
        metadata: plain values, stored in each file as JSON under `vaegan_pl`.

    Returns:
        The largest absolute difference of any output on random inputs, by file.

    Raises:
        OSError: if a file cannot be written.
        UserError: if a package is missing, or a file's outputs differ from PyTorch's; nothing is written in that case.
    """
    write, load = FORMATS[file_format]
    checked: dict[Path, tuple[bytes, float]] = {}
    with tempfile.TemporaryDirectory(prefix="vaegan_pl-") as folder:
        for name in (name for name in INPUTS if name in networks.names):
            network, path = getattr(networks, name), directory / f"{name}.{file_format}"
            unchecked = Path(folder, path.name)
            shape = (
                (networks.latent_dim,) if name == "decoder" else (networks.image_channels, *2 * [networks.image_size])
            )
            try:
                write(network, name, _examples(shape, networks.classes, 2), unchecked, json.dumps(dict(metadata)))
                runner = load(unchecked, network)
            except ModuleNotFoundError as error:
                raise UserError(f"format={file_format}: needs {error.name}; run pip install -e '.[export]'") from error
            differs = difference(network, runner, shape, networks.classes)
            if not differs <= TOLERANCE:
                raise UserError(
                    f"{path}: would differ from the model by {differs:.1e}, more than {TOLERANCE}; nothing was written"
                )
            checked[path] = unchecked.read_bytes(), differs
    for path, (content, _) in checked.items():
        atomic_write(path, content)
    return {path: differs for path, (_, differs) in checked.items()}


def export_density(mixtures: ClassMixtures, counts: Mapping[str, int], directory: Path) -> Path:
    """Write the density that samples are drawn from, as one mixture of Gaussians, for `numpy.load`.

    The file holds, for each component of each class, its weight (`weights`, which sum to 1), its mean (`means`), the
    Cholesky factor L of its covariance L L^T (`factors`), and the index of its class (`class_index`) in `classes`.

    Args:
        mixtures: the mixture of each class.
        counts: number of training images of each class, by which the classes are weighted.
        directory: the folder for the file.

    Raises:
        OSError: if the file cannot be written.
    """
    parts: dict[str, Any] = {
        "classes": np.array(list(mixtures)),
        "class_index": np.repeat(np.arange(len(mixtures)), [len(mixture.weights) for mixture in mixtures.values()]),
        "weights": np.concatenate([m.weights.double() * counts[name] for name, m in mixtures.items()]),
        "means": np.concatenate([m.means for m in mixtures.values()]),
        "factors": np.concatenate([m.factors for m in mixtures.values()]),
    }
    parts["weights"] /= parts["weights"].sum()
    content = BytesIO()
    np.savez_compressed(content, made_by=np.bytes_(MADE_BY), **parts)
    path = directory / DENSITY
    atomic_write(path, content.getvalue())
    return path


def _examples(shape: tuple[int, ...], classes: int, n: int) -> Inputs:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, *shape, generator=generator)
    return (x, torch.randint(0, classes, (n,), generator=generator)) if classes else (x,)


@torch.inference_mode()
def difference(network: nn.Module, runner: Runner, shape: tuple[int, ...], classes: int) -> float:
    """The largest absolute difference between outputs of a network and a runner, over batches of several sizes."""
    largest = 0.0
    for n in CHECKED:
        inputs = _examples(shape, classes, n)
        expected, found = _listed(network(*inputs)), runner(inputs)
        if [tuple(each.shape) for each in found] != [tuple(each.shape) for each in expected]:
            return float("inf")
        differences = [(a - b).abs().max().item() for a, b in zip(expected, found, strict=True)]
        largest = max(largest, *differences) if not np.isnan(differences).any() else float("inf")
    return largest


def _listed(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _write_safetensors(network: nn.Module, name: str, examples: Inputs, path: Path, metadata: str) -> None:
    from safetensors.torch import save

    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    path.write_bytes(save(tensors, metadata={"vaegan_pl": metadata}))


def _load_safetensors(path: Path, network: nn.Module) -> Runner:
    from safetensors.torch import load_file

    tensors = load_file(path)
    return lambda inputs: _listed(torch.func.functional_call(network, tensors, inputs, strict=True))


def _trace(network: nn.Module, examples: Inputs) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, examples, dynamic_shapes=tuple({0: batch} for _ in examples))


def _write_onnx(network: nn.Module, name: str, examples: Inputs, path: Path, metadata: str) -> None:
    import onnx

    for library in ("onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.WARNING)
    program = torch.onnx.export(
        _trace(network, examples),
        input_names=[INPUTS[name], "class"][: len(examples)],
        output_names=OUTPUTS[name],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"vaegan_pl": metadata})
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _load_onnx(path: Path, network: nn.Module) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        given = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
        return [torch.from_numpy(each) for each in session.run(None, given)]

    return run


def _write_pt2(network: nn.Module, name: str, examples: Inputs, path: Path, metadata: str) -> None:
    buffer = BytesIO()
    torch.export.save(_trace(network, examples), buffer, extra_files={"vaegan_pl": metadata})
    path.write_bytes(buffer.getbuffer())


def _load_pt2(path: Path, network: nn.Module) -> Runner:
    module = torch.export.load(path).module()
    return lambda inputs: _listed(module(*inputs))


FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path, nn.Module], Runner]]] = {
    "safetensors": (_write_safetensors, _load_safetensors),
    "onnx": (_write_onnx, _load_onnx),
    "pt2": (_write_pt2, _load_pt2),
}
