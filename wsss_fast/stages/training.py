"""A training as a stage of a run: fit, weights on disk, figures noted."""

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
    """What training left.

    Attributes:
        weights: file of the trained weights.
        losses: mean loss of each epoch.
        mean_ap: mean average precision of a classifier's tags on the validation set, 0..1; None where none was measured.
    """

    weights: Path
    losses: list[float]
    mean_ap: float | None = None


@dataclasses.dataclass(frozen=True)
class Length:
    """How long and in what portions: `batch_size` images an update, in `accumulate` parts, for `epochs` or `updates`."""

    batch_size: int
    epochs: int | None = None
    updates: int | None = None
    accumulate: int = 1


def adamw(net: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    """AdamW, for small networks from scratch: what is not the `backbone` at `head_lr_scale` times the recipe's `lr`."""
    head = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": list(net.backbone.parameters()), "lr": recipe.lr},
        {"params": head, "lr": recipe.lr * recipe.head_lr_scale},
    ]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def part(recipe: Any, *without: str) -> dict[str, Any]:
    """The numbers of a recipe that its training depends on: all but those named, which only inference reads."""
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
    """Train `net` and leave `<out>/<name>/weights.pth`; a training that is finished there already is not repeated.

    One that was killed goes on behind its last checkpoint (every minute, and at SIGTERM or Ctrl-C), to the same weights.

    Args:
        net: trained in place.
        step: (net, batch) -> scalar loss.
        samples: training samples.
        out: run folder.
        name: sub-folder of `out`.
        optimizer: over parameters of `net`.
        schedule: progress -> factor on the learning rates.
        length: of the training.
        runtime: device, seed, workers, dtype.
        arguments: everything else that the weights depend on.
        finish: done with the trained net before its weights are kept; returns more to note.

    Raises:
        InputError: the stage was made with other arguments, or a number is impossible.
        RunError: the loss became infinite, or a loader process died; checkpoints stay in the latter case.
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
    """Say in one line what torch's DataLoader says of its processes in many.

    Around `fit`, not inside: a training that failed itself loses its checkpoints, one whose loader died keeps them.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip()
        if (
            text.startswith("Caught ") and " in DataLoader worker process " in text
        ):  # then comes the traceback
            kind, _, what = text.splitlines()[-1].partition(": ")
            if isinstance(error, InputError):
                raise InputError(what) from None
            raise RunError(f"train {name}: a loader process failed ({kind}: {what})") from None
        if text.startswith("DataLoader worker (pid"):
            raise RunError(
                f"train {name}: {text.splitlines()[0].rstrip('. ')}, perhaps because memory was short; the same "
                "command goes on behind the last checkpoint, and fewer --workers need less memory"
            ) from None
        raise
