import os

import pytest

from hsae_hub.errors import ConflictError
from hsae_hub.lock import LOCK, only_one_in


def test_a_folder_is_held_by_one_and_free_again_after_it(tmp_path):
    folder = tmp_path / "runs" / "new"
    with only_one_in(folder, "training into"):
        with pytest.raises(ConflictError, match=f"in use: process {os.getpid()} on ") as caught:
            with only_one_in(folder, "training into"):
                pytest.fail("held twice")
        assert caught.value.code == 10
    with pytest.raises(ZeroDivisionError), only_one_in(folder, "training into"):
        raise ZeroDivisionError
    with only_one_in(folder, "training into"), only_one_in(tmp_path / "other", "training into"):
        pass


def test_a_holder_that_said_nothing_is_told_of_too(tmp_path):
    with only_one_in(tmp_path, "training into"):
        (tmp_path / LOCK).write_text("")
        with (
            pytest.raises(ConflictError, match="in use: another process is training into it"),
            only_one_in(tmp_path, "training into"),
        ):
            pass
