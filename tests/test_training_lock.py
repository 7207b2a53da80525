import os

import pytest

from hsae_hub.errors import ConflictError
from hsae_hub.training.lock import LOCK, only_run_in


def test_a_folder_is_held_by_one_and_free_again_after_it(tmp_path):
    folder = tmp_path / "runs" / "new"
    with only_run_in(folder):
        with pytest.raises(ConflictError, match=f"in use: process {os.getpid()} on ") as caught:
            with only_run_in(folder):
                pytest.fail("held twice")
        assert caught.value.code == 10
    with pytest.raises(ZeroDivisionError), only_run_in(folder):
        raise ZeroDivisionError
    with only_run_in(folder), only_run_in(tmp_path / "other"):
        pass


def test_a_holder_that_said_nothing_is_told_of_too(tmp_path):
    with only_run_in(tmp_path):
        (tmp_path / LOCK).write_text("")
        with (
            pytest.raises(ConflictError, match="in use: another process is"),
            only_run_in(tmp_path),
        ):
            pass
