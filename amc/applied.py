"""Writing the network of a plan for others to run, and reading a packed one again.

``.safetensors`` holds the state of the compressed network; where layers are sparse, that of the
network as it is deployed: BatchNorm folded, sparse layers packed for their kernels. ``.onnx`` and
``.pt2`` (``torch.export``) hold the network itself, sparse layers with their zeros.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from amc.compress import realised
from amc.deploy import deployed
from amc.errors import InputError
from amc.files import check_writable, write_bytes
from amc.masks import with_masks
from amc.plan_file import PlanFile, read_plan
from amc.planned import build, groups_of, load_planned_task
from amc.sparsify import layer_patterns, packed, prune
from amc.task import LoadedTask, state_digest

SUFFIXES = (".safetensors", ".onnx", ".pt2")
Form = Literal["packed", "unpacked", "masks"]
CONTENT = "content_sha256"
TOLERANCE = 1e-3  # of an ONNX file's outputs, relative to the largest


def apply(
    path: Path,
    out: Path,
    source: str,
    task_name: str | None,
    data_folder: str | None,
    form: Form = "packed",
) -> dict[str, Any]:
    """Write the network of a plan to ``out``, by its suffix; return what it is.

    ``source`` is that of ``amc.planned.build``. ``form`` is that of sparse layers in safetensors:
    ``packed`` for their kernels; ``unpacked``, plain weights with zeros, which other runtimes can
    make use of; or ``masks``, as ``torch.nn.utils.prune`` has them. An ONNX file is run in ONNX
    Runtime, where that is installed, and held against torch: ``onnx_difference`` is the largest
    difference of their outputs, relative to the largest output.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"--out {str(out)!r} must end in {', '.join(SUFFIXES)}")
    if form == "masks" and out.suffix != ".safetensors":
        raise InputError(f"--masks are written to .safetensors, but --out is {str(out)!r}")
    check_writable(out, "--out")
    plan = read_plan(path)
    task = load_planned_task(plan, task_name, data_folder)
    network = build(plan, path.parent, task, source)
    patterns = layer_patterns(plan.plan)
    if form == "masks" and not patterns:
        raise InputError(f"plan {str(path)!r} has no sparse layer to mask; leave --masks out")
    is_packed = bool(patterns) and out.suffix == ".safetensors" and form == "packed"
    params = sum(int(p.count_nonzero()) for p in network.parameters())
    checked: dict[str, Any] = {}
    if out.suffix == ".onnx":
        content = onnx_content(network, task.inputs)
        checked["onnx_difference"] = onnx_difference(network, task.inputs, content)
    elif out.suffix == ".pt2":
        content = _exported_content(network, task.inputs)
    else:
        ready = packed(deployed(network, task.inputs), patterns) if is_packed else network
        if form == "masks":
            ready = with_masks(network, patterns)
        state = {name: t.detach().contiguous() for name, t in ready.state_dict().items()}
        digest = {CONTENT: state_digest(state)} if is_packed else {}
        content = _in_order(save(state, {**_about(plan, is_packed), **digest}))
    write_bytes(out, content)
    return {
        "out": str(out),
        "bytes": len(content),
        "params": params,
        "sparse_layers": len(patterns),
        "packed": is_packed,
        "weights": source,
        **checked,
    }


def load_packed(file: Path, plan: PlanFile, task: LoadedTask) -> nn.Module:
    """Return the network that ``apply`` packed, ready to run on its kernels.

    Raises ``InputError`` for a file of another plan, and for one that is corrupt.
    """
    found = _metadata(file)
    expected = _about(plan, True)
    for key, value in expected.items():
        if found.get(key) != value:
            raise InputError(
                f"{str(file)!r} has {key} {found.get(key)!r}, but the plan's is {value!r}; apply "
                "the plan again"
            )
    network = realised(task.network, groups_of(plan, task), plan.plan)
    patterns = layer_patterns(plan.plan)
    prune(network, patterns)  # any zeros: the arrays are replaced
    ready = packed(deployed(network, task.inputs), patterns)
    try:
        state = load_file(file)
        ready.load_state_dict(state)
    except (RuntimeError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(
            f"{str(file)!r} is not the plan's packed network: {error}; apply the plan again"
        ) from error
    if state_digest(state) != found.get(CONTENT):
        raise InputError(
            f"{str(file)!r} holds other values than were written to it; apply the plan again"
        )
    return ready.eval()


def _about(plan: PlanFile, is_packed: bool) -> dict[str, str]:
    """Return the metadata of a file of weights."""
    about = {"network_digest": plan.network_digest, "task": plan.task}
    if not is_packed:
        return about
    weights = {} if plan.weights is None else {"plan_weights": plan.weights.sha256}
    return {**about, "plan_digest": plan.plan.digest, **weights, "packed": "yes"}


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted, which come in any order otherwise."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def _metadata(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise InputError(f"packed network {str(file)!r} is not a file; write one with amc apply")
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except Exception as error:  # safetensors raises a type of its own
        raise InputError(
            f"{str(file)!r} is not readable safetensors: {error}; apply the plan again"
        ) from error


def onnx_content(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """Return ``network`` as an ONNX file whose batch size is free."""
    examples, shapes = _of_any_batch(inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_exporter():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            examples,
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None
        return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter from logging which of its own parts are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def onnx_difference(network: nn.Module, inputs: tuple[Tensor, ...], content: bytes) -> float | None:
    """Return by how much ONNX Runtime's outputs differ from torch's, relative to the largest.

    ``None`` where it is not installed, or the network returns more than one tensor. Raises
    ``RuntimeError`` where they differ by more than ``TOLERANCE``.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    expected = network(*inputs)
    if not isinstance(expected, Tensor):
        return None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)}
    found = torch.from_numpy(session.run(None, feed)[0])
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the network exported to ONNX gives outputs in ONNX Runtime that differ from torch's "
            f"by {difference:g} of the largest; write .pt2 or .safetensors instead"
        )
    return difference


def exported(network: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Return ``network`` as ``torch.export`` captures it, its batch size free."""
    examples, shapes = _of_any_batch(inputs)
    return torch.export.export(network.eval(), examples, dynamic_shapes=shapes)


def _exported_content(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own internals
        torch.export.save(exported(network, inputs), content)
    return content.getvalue()


def _of_any_batch(inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Return examples for tracing, at least two of them, and that their number is free."""
    batch = torch.export.Dim("batch", min=1)
    examples = tuple(torch.cat([t, t]) if len(t) == 1 else t for t in inputs)
    return examples, tuple({0: batch} for _ in examples)
