"""Training as a stage of a run: fit, write the weights, note the losses."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.engine import distributed
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.ddp import Step
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.marker import MODEL_FILE, WEIGHTS_FILE
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.run_lock import exclusive
from wsss_fast.engine.runtime import Runtime, compiler_errors
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.serialize import fields_of
from wsss_fast.errors import InputError, RunError


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        weights: file of the trained weights.
        losses: mean loss of each epoch.
        parts: mean of each named part of the loss, by epoch; empty for a loss of one part.
        mean_ap: mean average precision of a classifier's tags on the validation set, 0..1; None if
            it was not measured.
        model: file of the same weights with what they are of (`nets.ModelInfo`), for other places
            and programs; None if it could not be written.
    """

    weights: Path
    losses: list[float]
    mean_ap: float | None = None
    parts: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    model: Path | None = None


def fields_except(recipe: Any, *names: str) -> dict[str, Any]:
    """The fields of a recipe that its training depends on: all but `names`, read by inference.

    `compile` and `energy` are among them where they are on, and fields that earlier versions lacked
    (`serialize.later`) where they do not have their default.
    """
    fields = fields_of(recipe)
    off = {"compile": not recipe.compile, "energy": not ("energy" in fields and recipe.energy.on)}
    return {name: v for name, v in fields.items() if name not in names and not off.get(name)}


def train(
    net: nn.Module,
    step: Step,
    samples: Samples,
    out: Path,
    name: str,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    length: Length,
    runtime: Runtime,
    arguments: dict[str, Any],
    info: nets.ModelInfo | None = None,
    finish: Callable[[], dict[str, Any]] | None = None,
) -> TrainResult:
    """Train `net` and write `<out>/<name>/weights.pth`; a finished training is skipped.

    `<out>/<name>/model.safetensors` has the same weights with `info`; if it is missing beside the
    weights of a finished training, it is made of them.

    `<out>/<name>/log.csv` has the losses and learning rates (`engine.run_log`).

    An interrupted training resumes from its last checkpoint (one per minute, and one at SIGTERM or
    Ctrl-C) and ends with the weights of an uninterrupted one.

    Collective.

    Args:
        net: network to train, in place.
        step: function of the network and a batch that returns the loss, a scalar, or its parts by
            name.
        samples: training samples.
        out: run folder.
        name: sub-folder of `out`.
        optimizer: optimizer of the parameters of `net`.
        schedule: function from progress 0..1 to a factor on the learning rates.
        length: epochs or updates, batch size, accumulation.
        runtime: device, seed, loader processes, dtype.
        arguments: everything else that the weights depend on.
        info: what the network is; None: no model.safetensors.
        finish: function called with the trained network before its weights are written; it returns
            more to note in done.json.

    Raises:
        InputError: the stage was started with other arguments, or a number is impossible.
        RunError: the loss is not finite, or a loader process died or torch.compile failed
            (checkpoints are kept then).
    """
    file, model = out / name / WEIGHTS_FILE, out / name / MODEL_FILE

    def work() -> dict[str, Any]:
        checkpoints = Checkpoints(out / name)
        with _loader_errors(name), compiler_errors(f"train {name}"):
            history = fit(
                net,
                step,
                samples,
                optimizer=optimizer,
                schedule=schedule,
                length=length,
                runtime=runtime,
                label=f"train {name}",
                checkpoints=checkpoints,
                log=out / name,
            )
        notes = finish() if finish is not None else {}
        if distributed.is_main_process():
            nets.save_weights(net, file)
            if info is not None:
                nets.save_model(net, model, info, weights=file)
        checkpoints.clear()
        speed = {"samples_per_second": history.samples_per_second}
        parts = {"loss_parts": history.parts} if history.parts else {}
        return {"losses": history.losses, **parts, **speed, **notes}

    depends = {**arguments, "seed": runtime.seed, "dtype": str(runtime.dtype)}
    with exclusive(out):
        notes = stage(out, name, depends, work, files=[file.name], remake=False)
        written = info is not None and distributed.run_on_main(lambda: _pack(file, model, info))
    return TrainResult(
        file,
        notes["losses"],
        parts=notes.get("loss_parts", {}),
        model=model if written else None,
    )


def _pack(weights: Path, model: Path, info: nets.ModelInfo) -> bool:
    """Make the model file of weights that have none, as of earlier versions; whether it is there.

    The training is finished: a full disk or a read-only folder is no error.
    """
    if nets.is_model_of(model, weights):
        return True
    net = nets.load_weights(info.build(weights), weights, complete=True)
    try:
        nets.save_model(net, model, info, weights=weights)
    except OSError as error:
        say(f"{model}: could not be written ({error.strerror}); {weights} has the same weights")
        return False
    return True


@contextlib.contextmanager
def _loader_errors(name: str) -> Iterator[None]:
    """Shorten the errors of torch's DataLoader and its processes to one line.

    Used around `fit`, not inside: a training that fails removes its checkpoints, but one whose
    loader died keeps them.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip()
        # The error of the worker, followed by its traceback.
        if text.startswith("Caught ") and " in DataLoader worker process " in text:
            kind, _, what = text.splitlines()[-1].partition(": ")
            if isinstance(error, InputError):
                raise InputError(what) from None
            raise RunError(f"train {name}: a loader process failed ({kind}: {what})") from None
        if text.startswith("DataLoader worker (pid"):
            raise RunError(
                f"train {name}: {text.splitlines()[0].rstrip('. ')}, perhaps out of memory; the "
                "same command resumes from the last checkpoint, and fewer --workers need less "
                "memory"
            ) from None
        raise
