"""Blocks on disk of which the last are kept: what is read again, and what is let go."""

import torch

from hsae_hub.ops import ALIGNED, StoredTable, empty_blocks

TABLE = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))


class Disk:
    """A table that notes which blocks are read."""

    def __init__(self, capacity: int) -> None:
        self.asked: list[list[int]] = []
        self.stored = StoredTable(len(TABLE), capacity, self.read)

    def read(self, numbers: torch.Tensor) -> torch.Tensor:
        self.asked.append(numbers.tolist())
        if 13 in self.asked[-1]:
            raise OSError("a bad sector")
        return TABLE[numbers]

    def take(self, *index: int) -> list[list[int]]:
        """Takes blocks, which have to be those of the table; gives what had to be read for it."""
        self.asked.clear()
        asked = torch.tensor(index).view(1, -1)
        blocks, place = self.stored.take(asked)
        assert torch.equal(blocks[place], TABLE[asked])
        return self.asked.copy()


def test_a_block_is_read_once() -> None:
    disk = Disk(10)
    assert disk.take(7, 3, 7, 9) == [[3, 7, 9]]
    assert disk.take(9, 3, 7) == [] and disk.take(3) == []
    assert disk.take(4, 3, 5) == [[4, 5]]
    assert disk.take(9, 5, 4, 3) == []


def test_the_same_blocks_again_are_not_even_copied() -> None:
    stored = Disk(10).stored
    first, second = (stored.take(torch.tensor([5, 2, 8]))[0] for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    disk = Disk(4)
    disk.take(0, 1)
    disk.take(2)
    disk.take(1)  # the chunk of 0 and 1 is the later one now
    assert disk.take(3, 4) == [[3, 4]]
    assert disk.take(0, 1) == [] and disk.take(2) == [[2]]


def test_more_than_there_is_room_for_is_read_and_let_go() -> None:
    disk = Disk(4)
    assert disk.take(*range(9)) == [list(range(9))]
    assert disk.take(8) == [[8]]
    assert disk.take(8, 0, 1, 2, 3, 4) == [[0, 1, 2, 3, 4]]
    assert sum(len(chunk.numbers) for chunk in disk.stored._chunks.values()) <= 4


def test_a_failed_read_leaves_nothing_behind() -> None:
    disk = Disk(8)
    disk.take(1)
    for _ in range(2):
        try:
            disk.take(1, 13, 14)
        except OSError:
            assert disk.asked == [[13, 14]]
    assert disk.take(1, 14) == [[14]]


def test_no_block_is_no_error() -> None:
    blocks, place = Disk(4).stored.take(torch.empty(2, 0, dtype=torch.int64))
    assert blocks.shape == (0, 3, 4) and place.shape == (2, 0)


def test_memory_for_blocks_begins_where_torch_lets_it_begin() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        blocks = empty_blocks((3, 5, 7), dtype)
        assert blocks.shape == (3, 5, 7) and blocks.dtype == dtype and blocks.is_contiguous()
        assert blocks.data_ptr() % ALIGNED == 0
