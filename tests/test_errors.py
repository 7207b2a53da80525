"""What a traceback in a notebook says below the message, as the command line does."""

import pickle
import traceback

import pytest

from hsae_hub.cli.failing import as_text
from hsae_hub.errors import HSAEError, NotFoundError, UsageError
from hsae_hub.recipes import load_recipe

ERRORS = [
    NotFoundError("no SAE org/a", why="the hub does not know it", fix="hsae search a\nhsae ls"),
    UsageError("2 problems", problems=("k is 0", "lr is -1"), fix="hsae recipes check FILE"),
    UsageError("k is 0", problems=("k is 0",)),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_traceback_ends_with_what_the_command_line_prints(error: HSAEError) -> None:
    _, *below = as_text(error).splitlines()
    told = "".join(traceback.format_exception_only(error)).splitlines()
    assert told[1:] == below
    assert told[0].endswith(error.message)


def test_the_problems_of_a_recipe_are_read_where_it_was_loaded() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("gemma2-tiny-en/l3_hsae", overrides=["train.steps=0"])
    assert "train.steps" in "".join(traceback.format_exception_only(caught.value))


def test_an_error_that_crossed_processes_tells_it_once() -> None:
    again = pickle.loads(pickle.dumps(ERRORS[0]))
    assert traceback.format_exception_only(again) == traceback.format_exception_only(ERRORS[0])
