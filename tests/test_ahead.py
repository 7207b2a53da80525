"""Activations read in a thread while SAEs train: the same batches, positions, errors and interrupts as without it."""

import json
import signal
import threading
from copy import deepcopy

import pytest
import torch
import yaml
from test_activations import HOOKPOINT, LINES, data
from test_training import RECIPE, assert_same_weights, interrupt_at, metrics

from hsae_hub.activations import ActivationStream, stream
from hsae_hub.activations.ahead import Ahead
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.models import load_language_model
from hsae_hub.recipes import DataSource, load_recipe
from hsae_hub.training import train

NAME = "harvest-ahead"
BATCH = 16


@pytest.fixture(scope="module")
def lm():
    return load_language_model(device="cpu")


def opened(lm, *, ahead, **settings):
    config = data(DataSource(lines=LINES), DataSource(sample=30), **settings)
    places = {"batch_size": BATCH, "seed": 0, "sample_seed": 0}
    return ActivationStream(lm, HOOKPOINT, config, ahead=ahead, **places)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.fixture
def readers(monkeypatch):
    """The names of the threads that the language model was read in."""
    found = []
    read = stream.read_batch

    def watched(*given):
        found.append(threading.current_thread().name)
        return read(*given)

    monkeypatch.setattr(stream, "read_batch", watched)
    return found


def test_results_come_in_order_and_what_is_forgotten_is_not_taken():
    calls = iter(range(100))
    ahead = Ahead(lambda: next(calls), NAME)
    assert [ahead.take() for _ in range(3)] == [0, 1, 2]
    for _ in range(4):
        ahead.begin()
    assert ahead.begun == 4
    assert [ahead.take(), ahead.take()] == [3, 4]
    ahead.forget()
    assert ahead.begun == 0
    assert ahead.take() in range(5, 8)  # a call that had begun ended, others never did
    ahead.close()
    assert not threads()


def test_batches_and_positions_are_those_of_a_stream_without_a_thread(lm, readers):
    plain, beside = (opened(lm, ahead=ahead) for ahead in (False, True))
    for _ in range(30):
        assert torch.equal(plain.next_batch(), beside.next_batch())
        mine, theirs = beside.state_dict(), plain.state_dict()
        assert mine.values | {"wait_seconds": 0} == theirs.values | {"wait_seconds": 0}
        assert all(torch.equal(mine.tensors[k], theirs.tensors[k]) for k in theirs.tensors)
        assert mine.tensors.keys() == theirs.tensors.keys()
    assert {name.startswith(NAME) for name in readers} == {True, False}
    beside.close()
    assert not threads()


def test_a_stream_goes_on_from_any_position_while_it_reads_ahead(lm):
    whole = opened(lm, ahead=True)
    states, batches = [], []
    for _ in range(12):
        states.append(deepcopy(whole.state_dict()))
        batches.append(whole.next_batch())
    for at in (5, 1, 9):  # the same one, forth and back
        whole.load_state_dict(deepcopy(states[at]))
        for batch in batches[at:]:
            assert torch.equal(whole.next_batch(), batch)
    whole.close()


def test_no_more_is_read_ahead_than_the_next_refill_takes(lm, monkeypatch):
    settings = {"context_length": 12, "batch_contexts": 4, "buffer_tokens": 200}
    beside = opened(lm, ahead=True, **settings)
    most = 200 // 2 + BATCH + 4 * 12
    ahead = []
    for _ in range(30):
        beside.next_batch()
        beside._ahead._thread.submit(int).result()  # all that was asked for is done
        reads = list(beside._ahead.done())
        ahead.append(
            len(beside._spare) + sum(len(read.rows) for read in reads if read.rows is not None)
        )
    assert 0 < max(ahead) <= most
    beside.close()


def test_what_fails_in_the_thread_is_raised_where_the_batch_is_asked_for(lm, monkeypatch):
    beside = opened(lm, ahead=True)
    beside.next_batch()

    def fail(*given):
        raise UsageError("the disk is gone")

    monkeypatch.setattr(stream, "read_batch", fail)
    with pytest.raises(UsageError, match="the disk is gone"):
        for _ in range(20):
            beside.next_batch()
    beside.close()
    assert not threads()


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_a_run_ends_with_the_same_weights_and_no_thread(recipe_file, tmp_path, monkeypatch):
    results = {}
    for ahead in (False, True):
        monkeypatch.setattr(stream, "has_room_for_a_thread", lambda device, ahead=ahead: ahead)
        out = tmp_path / f"{ahead}"
        if ahead:
            with pytest.raises(InterruptedRun, match="after step 9 of 20"):
                train(
                    load_recipe(recipe_file),
                    out,
                    device="cpu",
                    on_event=interrupt_at(signal.SIGINT, done=9),
                )
            assert not threads()
        said = []
        results[ahead] = train(load_recipe(recipe_file), out, device="cpu", on_event=said.append)
        assert 0 < results[ahead].wait_seconds < results[ahead].seconds
        first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["wait_seconds"]
        share = (results[ahead].wait_seconds - first) / (results[ahead].seconds - first)
        assert f"{share:.1%} of" in said[-1].message
        assert ("hsae cache make" in said[-1].message) == (share >= 0.05)
        assert not threads()
    assert results[True].resumed_from == 9
    assert metrics(tmp_path / "True") == metrics(tmp_path / "False")
    assert_same_weights(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize(("threads", "room"), [(1, True), (2, False)])
def test_on_a_cpu_the_thread_takes_idle_processors_alone(monkeypatch, threads, room):
    monkeypatch.setattr(stream.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert stream.has_room_for_a_thread(torch.device("cpu")) == room
    assert stream.has_room_for_a_thread(torch.device("cuda"))
