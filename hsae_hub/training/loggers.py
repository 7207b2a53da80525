"""Where the lines of metrics.jsonl go as well: TensorBoard, Weights & Biases. A new logger is one function here."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hsae_hub.artifact import write_atomic
from hsae_hub.errors import ResourceError, UsageError
from hsae_hub.recipes import Recipe, dump_recipe

Write = Callable[[dict[str, Any]], None]
"""Takes a line of metrics.jsonl."""

WANDB_ID = ".wandb-id"


def check_loggers(names: Sequence[str]) -> None:
    """Makes sure that loggers exist and that their packages are installed.

    Raises:
        UsageError: there is no logger of that name.
        ResourceError: its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise UsageError(f"no logger {name!r}; known: {', '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise ResourceError(
                f"logging to {name} needs the package {name}, which is not installed",
                fix=f"pip install 'hsae-hub[{name}]'",
            )


@contextmanager
def open_loggers(names: Sequence[str], folder: Path, recipe: Recipe) -> Iterator[Write]:
    """Opens loggers for the run in a folder, and closes them however it ends.

    A run that goes on from a checkpoint goes on in its logs: it writes the lines after that step anew.
    """
    with ExitStack() as stack:
        writes = [
            stack.enter_context(LOGGERS[name](folder, recipe)) for name in dict.fromkeys(names)
        ]

        def write(line: dict[str, Any]) -> None:
            for one in writes:
                one(line)

        yield write


def flat(line: dict[str, Any], prefix: str = "") -> dict[str, int | float]:
    """The numbers of a line, by names such as `sae/explained_variance`."""
    found: dict[str, int | float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found


@contextmanager
def _tensorboard(folder: Path, recipe: Recipe) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as stack:
        opened: list[SummaryWriter] = []

        def write(line: dict[str, Any]) -> None:
            if not opened:  # what an earlier start wrote from this step on no longer counts
                writer = SummaryWriter(str(folder / "tensorboard"), purge_step=line["step"])
                opened.append(stack.enter_context(writer))
                writer.add_text("recipe", f"```yaml\n{dump_recipe(recipe)}```", line["step"])
            for name, value in flat(line).items():
                opened[0].add_scalar(name, value, line["step"])
            opened[0].flush()

        yield write


@contextmanager
def _wandb(folder: Path, recipe: Recipe) -> Iterator[Write]:
    import wandb

    if not (folder / WANDB_ID).is_file():
        write_atomic(folder / WANDB_ID, uuid.uuid4().hex)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hsae-hub"),
            name=folder.resolve().name,
            dir=folder,
            id=(folder / WANDB_ID).read_text(encoding="utf-8"),
            resume="allow",
            config=recipe.model_dump(mode="json"),
            settings={"console": "off"},  # the progress bars are no log
        )
    except wandb.Error as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ResourceError(
            f"Weights & Biases did not start: {told[0]}", fix="wandb login\nor WANDB_MODE=offline"
        ) from None
    failed = 1
    try:
        yield lambda line: run.log(flat(line), step=line["step"])
        failed = 0
    finally:
        run.finish(exit_code=failed)


LOGGERS: dict[str, Callable[[Path, Recipe], AbstractContextManager[Write]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""By the name of the package that each needs, which is that of the extra too."""
