"""What a file that cannot be written is told as, and what is left of it."""

import os
from pathlib import Path

import pytest

from hsae_hub.artifact import folder_atomic, write_atomic


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing/a.txt", FileNotFoundError),
        ("folder", IsADirectoryError),
        ("file/a.txt", NotADirectoryError),
        ("a" * 300, OSError),
    ],
)
def test_a_file_that_cannot_be_written_is_told_by_its_own_name(
    tmp_path: Path, name: str, expected: type[OSError]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(expected) as told:
        write_atomic(tmp_path / name, "text")
    assert told.value.filename == str(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert not os.listdir(tmp_path / "folder")


def test_an_error_of_what_writes_is_not_about_the_file(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.touch()
        raise OSError("no luck")

    with pytest.raises(OSError, match=r"^no luck$"):
        write_atomic(tmp_path / "a", write)
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as told, folder_atomic(tmp_path / "file" / "out"):
        pass
    assert told.value.filename == str(tmp_path / "file" / "out")
