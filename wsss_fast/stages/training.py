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
from wsss_fast.engine.fit import fit
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.runtime import Runtime
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.errors import InputError, RunError


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        weights: file of the trained weights.
        losses: mean loss of each epoch.
        mean_ap: mean average precision of a classifier's tags on the validation set, 0..1; None if
            it was not measured.
    """

    weights: Path
    losses: list[float]
    mean_ap: float | None = None


@dataclasses.dataclass(frozen=True)
class Length:
    """Length of a training: a number of epochs or of updates.

    Attributes:
        batch_size: images per update.
        epochs: number of epochs, or None.
        updates: number of updates, or None.
        accumulate: number of parts of a batch whose gradients are accumulated.
    """

    batch_size: int
    epochs: int | None = None
    updates: int | None = None
    accumulate: int = 1


def adamw(net: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    """AdamW, for small networks trained from scratch.

    The backbone's learning rate is the recipe's `lr`, that of the rest `head_lr_scale` times as
    high.
    """
    head = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": list(net.get_submodule("backbone").parameters()), "lr": recipe.lr},
        {"params": head, "lr": recipe.lr * recipe.head_lr_scale},
    ]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def part(recipe: Any, *without: str) -> dict[str, Any]:
    """The numbers of a recipe that training depends on: all but `without`, used in inference."""
    return {
        f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name not in without
    }


def train(
    net: nn.Module,
    step: Callable[[nn.Module, Batch], torch.Tensor],
    samples: Samples,
    out: Path,
    name: str,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    length: Length,
    runtime: Runtime,
    arguments: dict[str, Any],
    finish: Callable[[], dict[str, Any]] | None = None,
) -> TrainResult:
    """Train `net` and write `<out>/<name>/weights.pth`; a finished training is not repeated.

    An interrupted training resumes after its last checkpoint (written every minute, and at SIGTERM
    or Ctrl-C) and gives the same weights.

    Collective.

    Args:
        net: network to train, in place.
        step: function of the network and a batch that returns the loss, a scalar.
        samples: training samples.
        out: run folder.
        name: sub-folder of `out`.
        optimizer: optimizer of the parameters of `net`.
        schedule: function from progress 0..1 to a factor on the learning rates.
        length: length of the training.
        runtime: device, seed, workers, dtype.
        arguments: everything else that the weights depend on.
        finish: function called with the trained network before its weights are written; it returns
            more to note in done.json.

    Raises:
        InputError: the stage was run before with other arguments, or a number is impossible.
        RunError: the loss became infinite, or a loader process died; in the latter case checkpoints
            are kept.
    """
    file = out / name / "weights.pth"

    def work() -> dict[str, Any]:
        checkpoints = Checkpoints(out / name)
        with _loader_errors(name):
            history = fit(
                net,
                step,
                samples,
                optimizer=optimizer,
                schedule=schedule,
                batch_size=length.batch_size,
                epochs=length.epochs,
                updates=length.updates,
                accumulate=length.accumulate,
                runtime=runtime,
                label=f"train {name}",
                checkpoints=checkpoints,
            )
        notes = finish() if finish is not None else {}
        if distributed.is_main_process():
            nets.save_weights(net, file)
        checkpoints.clear()
        return {"losses": history.losses, "samples_per_second": history.samples_per_second, **notes}

    notes = stage(out, name, {**arguments, "seed": runtime.seed, "dtype": str(runtime.dtype)}, work)
    return TrainResult(file, notes["losses"], notes.get("mean_ap"))


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
        if text.startswith("Caught ") and " in DataLoader worker process " in text:
            kind, _, what = text.splitlines()[-1].partition(": ")  # the end of a traceback
            if isinstance(error, InputError):
                raise InputError(what) from None
            raise RunError(f"train {name}: a loader process failed ({kind}: {what})") from None
        if text.startswith("DataLoader worker (pid"):
            raise RunError(
                f"train {name}: {text.splitlines()[0].rstrip('. ')}, perhaps for lack of memory; "
                "the same command resumes after the last checkpoint, and fewer --workers need less "
                "memory"
            ) from None
        raise
