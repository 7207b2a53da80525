"""Batches from a store: every row once an epoch, any order anew, any position, any number of processes."""

import gc
import json
import threading
import time

import pytest
import torch
from stores import in_order, make, rows

from hsae_hub.activations import Batches, CachedStream, StreamState
from hsae_hub.activations import cached as cached_file
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.ops.collective import Part

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def store(quick, tmp_path_factory):
    """Of 300 rows in five shards, so that a batch of 64 has blocks of 4."""
    made = make(tmp_path_factory.mktemp("store") / "store", tokens=300, shard_tokens=60)
    return made.folder


def stream(store, *, seed=0, **options):
    return CachedStream(store, **({"batch_size": 64, "seed": seed} | options))


def take(given, n):
    return torch.cat([given.next_batch() for _ in range(n)])


def numbers(store, found):
    """Rows by their number in the store."""
    known = {row.numpy().tobytes(): n for n, row in enumerate(rows(store))}
    return [known[row.numpy().tobytes()] for row in found]


def test_it_is_what_training_needs(store):
    given = stream(store)
    assert isinstance(given, Batches)
    assert given.d_in == 256 and given.device == torch.device("cpu")
    assert given.origin.hookpoint.path == "model.layers.0"
    assert given.next_batch().shape == (64, 256)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 300])
def test_an_epoch_has_every_row_once_whatever_the_batch(store, batch_size):
    given = stream(store, batch_size=batch_size)
    found = take(given, -(-900 // batch_size))
    expected = in_order(rows(store))
    for epoch in range(3):
        assert in_order(found[300 * epoch : 300 * (epoch + 1)]) == expected
    assert given.tokens == len(found)


def test_epochs_and_seeds_have_orders_of_their_own(store):
    found = take(stream(store), 19)  # 1216 rows
    epochs = [numbers(store, found[300 * e : 300 * (e + 1)]) for e in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    batches = [set(epoch[:64]) for epoch in epochs]
    assert all(len(a & b) < 40 for a in batches for b in batches if a is not b)  # 14 by chance
    assert epochs[0] != list(range(300))
    assert torch.equal(found, take(stream(store), 19))
    assert not torch.equal(found, take(stream(store, seed=1), 19))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_together_read_the_batches_of_one(store, world, monkeypatch):
    asked = []
    gc.collect()  # ends the threads of other tests' streams
    monkeypatch.setattr(cached_file, "will_need", lambda path, start, size: asked.append(size))
    one = stream(store)
    whole = take(one, 12).split(64)
    one.close()
    everything = sum(asked)
    asked.clear()
    parts = [stream(store, part=Part(rank, world)) for rank in range(world)]
    for batch in whole:
        assert torch.equal(torch.cat([part.next_batch() for part in parts]), batch)
    assert {part.tokens for part in parts} == {12 * 64}
    assert {len(part.next_batch()) - 64 // world for part in parts} <= {0, 1}
    for part in parts:
        part.close()
    most = (12 + 1 + cached_file.AHEAD + 1) * 64 * 1024  # nobody reads what is another's
    assert everything <= most and sum(asked) <= most


@pytest.mark.parametrize("at", [0, 1, 4, 5, 23])
def test_it_goes_on_from_a_saved_position_which_is_a_few_numbers(store, at):
    given = stream(store)
    take(given, at) if at else given.fill()
    saved = given.state_dict()
    assert saved.tensors == {} and len(json.dumps(saved.values)) < 200
    resumed = stream(store)
    resumed.next_batch()  # what was read ahead from another position is not given
    resumed.load_state_dict(StreamState(json.loads(json.dumps(saved.values)), {}))
    assert resumed.tokens == 64 * at
    for _ in range(12):
        assert torch.equal(given.next_batch(), resumed.next_batch())


def test_a_position_holds_for_any_number_of_processes(store):
    given = stream(store)
    take(given, 3)
    halves = [stream(store, part=Part(rank, 2)) for rank in range(2)]
    for half in halves:
        half.load_state_dict(given.state_dict())
    assert torch.equal(torch.cat([half.next_batch() for half in halves]), given.next_batch())


def test_normalising_is_fitted_to_the_same_rows_in_every_process(store):
    whole, halves = stream(store), [stream(store, part=Part(rank, 2)) for rank in range(2)]
    given = [each.norm_sample() for each in (whole, *halves) if each.fill() is None]
    assert len(given[0]) == 157 * 64 == whole.tokens  # 10,000 rounded up to batches
    assert torch.equal(given[0], take(stream(store), 157))
    assert all(torch.equal(other, given[0]) for other in given)
    assert torch.equal(torch.cat([half.next_batch() for half in halves]), whole.next_batch())


def test_it_does_not_go_on_in_another_store(store, tmp_path):
    other = make(tmp_path / "other", tokens=200, shard_tokens=60).folder
    with pytest.raises(CorruptError, match="not the one that this run began with"):
        stream(other).load_state_dict(stream(store).state_dict())


def test_values_keep_the_type_of_the_store(tmp_path):
    folder = make(tmp_path / "store", tokens=100, dtype="bfloat16").folder
    given = stream(folder, batch_size=100)
    batch = given.next_batch()
    assert batch.dtype == torch.bfloat16 and in_order(batch) == in_order(rows(folder))


def test_less_than_a_batch_is_an_error(store):
    with pytest.raises(
        UsageError, match=r"has 300 activations, expected at least train\.batch_size"
    ):
        stream(store, batch_size=301)


def test_batches_can_be_changed_without_changing_the_store(store):
    before = rows(store)
    take(stream(store), 5).zero_()
    given = stream(store, batch_size=300)
    given.next_batch().zero_()
    assert torch.equal(rows(store), before)
    assert in_order(given.next_batch()) == in_order(before)


# --- the thread ---


def slow(monkeypatch, seconds):
    real = cached_file._Reader.batch

    def batch(self, at, part):
        time.sleep(seconds)
        return real(self, at, part)

    monkeypatch.setattr(cached_file._Reader, "batch", batch)


def test_waiting_is_counted_and_reading_goes_on_meanwhile(store, monkeypatch):
    slow(monkeypatch, 0.1)
    hurried, patient = stream(store), stream(store)
    take(hurried, 4)
    assert 0.3 < hurried.wait_seconds
    patient.fill()
    before = patient.wait_seconds
    for _ in range(2):
        time.sleep(0.5)  # as a step would take
        patient.next_batch()
    assert patient.wait_seconds - before < 0.1


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def gone():
    """Whether no thread reads ahead any more, which may take it a moment to notice."""
    for _ in range(100):
        if not readers():
            return True
        time.sleep(0.05)
    return False


def test_no_thread_stays(store):
    gc.collect()
    assert gone()
    closed = stream(store)
    closed.next_batch()
    assert len(readers()) == 1
    closed.close()
    assert not readers()
    forgotten = stream(store)
    forgotten.next_batch()
    assert len(readers()) == 1
    del forgotten
    gc.collect()
    assert gone()


def test_what_fails_while_reading_ahead_is_told(store, tmp_path):
    for path in store.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = stream(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="shard-0000"):
        given.next_batch()
