"""Contexts and the stream of activations."""

import json
import math
from pathlib import Path

import pytest
import torch

from hsae_hub.activations import (
    ActivationStream,
    WindowStream,
    heldout_windows,
    is_heldout,
    sources,
    windows,
)
from hsae_hub.activations.contexts import tokenise, with_bos
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.models import Hookpoint, load_language_model, read_activations
from hsae_hub.recipes import DataConfig, DataSource

HOOKPOINT = Hookpoint.parse("model.layers.0")
LINES = [f"Sentence {i} is about the number {i * i} and a few other things." for i in range(30)]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(device="cpu")


@pytest.fixture
def data_set(tmp_path):
    rows = [json.dumps({"body": line}) for line in LINES]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return str(tmp_path)


def data(*train, **settings):
    settings = {"context_length": 12, "buffer_tokens": 64, "batch_contexts": 4} | settings
    return DataConfig(train=list(train) or [DataSource(lines=LINES)], **settings)


def window_stream(lm, config, seed=0):
    return WindowStream(config, lm, seed=seed, sample_seed=0)


def activation_stream(lm, config, batch_size=16, seed=0):
    return ActivationStream(lm, HOOKPOINT, config, batch_size=batch_size, seed=seed, sample_seed=0)


def epoch_of(stream):
    found = []
    while taken := stream.take(5):
        found += taken
    return [tuple(context.tolist()) for context in found]


# --- contexts ---


def test_contexts_are_consecutive_pieces_after_a_bos(lm):
    config = data(context_length=6)
    bos = lm.tokenizer.bos_token_id
    pieces = tokenise(lm, LINES[:1], config)
    expected = lm.tokenizer(LINES[0], add_special_tokens=False)["input_ids"]
    assert torch.cat(pieces).tolist() == expected
    assert [len(p) for p in pieces[:-1]] == [5] * (len(pieces) - 1)
    assert with_bos(pieces[0], lm, config).tolist() == [bos, *expected[:5]]
    assert len(tokenise(lm, LINES[:3], data(windows="first", context_length=6))) == 3
    assert len(tokenise(lm, LINES[:1], data(context_length=6, bos=False))[0]) == 6


@pytest.mark.parametrize("limit", [0, sources.IN_MEMORY], ids=["streamed", "in memory"])
def test_an_epoch_has_every_training_context_once(lm, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(sources, "IN_MEMORY", limit)
    monkeypatch.setattr(sources, "PASSAGE", 40)
    monkeypatch.setattr(windows, "CHUNK", 4)
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    config = data(DataSource(text=[str(tmp_path / "text.txt")]), heldout_fraction=0.2)
    stream = window_stream(lm, config)
    first, second = epoch_of(stream), epoch_of(stream)
    trained = [line for line in LINES if not is_heldout(line, 0.2)]
    expected = [with_bos(p, lm, config) for p in tokenise(lm, trained, config)]
    assert sorted(first) == sorted(second) == sorted(tuple(c.tolist()) for c in expected)
    assert (first == second) == (limit == 0)
    assert stream.epoch == 2


@pytest.fixture
def mixed(data_set, monkeypatch):
    monkeypatch.setattr(windows, "CHUNK", 4)
    return data(
        DataSource(lines=["Short text.", "Another one, a little longer than the first of them."]),
        DataSource(dataset=data_set, column="body"),
        DataSource(sample=30),
        heldout_fraction=0.01,
    )


def test_sources_take_turns(lm, mixed):
    taken = [tuple(c.tolist()) for c in window_stream(lm, mixed).take(8)]
    rows = {tuple(with_bos(p, lm, mixed).tolist()) for p in tokenise(lm, LINES, mixed)}
    assert [context in rows for context in taken] == [False, True] * 4


@pytest.mark.parametrize("at", [0, 1, 7, 40, 83])
def test_contexts_go_on_from_a_saved_position(lm, mixed, at):
    stream = window_stream(lm, mixed)
    for _ in range(at):
        stream.take(1)
    saved = stream.state_dict()
    values = json.loads(json.dumps(saved.values))
    resumed = window_stream(lm, mixed)
    resumed.load_state_dict(saved._replace(values=values))
    expected = [[c.tolist() for c in stream.take(3)] for _ in range(40)]
    assert [[c.tolist() for c in resumed.take(3)] for _ in range(40)] == expected
    assert stream.epoch == resumed.epoch > 0


def test_contexts_do_not_go_on_in_another_text(lm):
    stream = window_stream(lm, data())
    stream.take(3)
    other = window_stream(lm, data(DataSource(lines=[*LINES, "One more sentence."])))
    with pytest.raises(CorruptError, match="training text"):
        other.load_state_dict(stream.state_dict())


def test_without_text_there_is_nothing_to_train_on(lm):
    with pytest.raises(UsageError, match="no text to train on"):
        window_stream(lm, data(DataSource(lines=["", ""]))).take(1)


def test_held_out_contexts_are_not_trained_on(lm):
    config = data(
        DataSource(lines=LINES), DataSource(sample=60), heldout_fraction=0.3, context_length=40
    )
    heldout = heldout_windows(config, lm, tokens=10_000, sample_seed=0)
    train = set(epoch_of(window_stream(lm, config)))
    assert heldout and not train & {tuple(context.tolist()) for context in heldout}
    held = [line for line in LINES if is_heldout(line, 0.3)]
    n_lines = sum(len(piece) for piece in tokenise(lm, held, config))
    assert sum(len(context) - 1 for context in heldout) == n_lines + round(0.3 * 60)


def test_held_out_contexts_stop_at_the_tokens_asked_for(lm):
    config = data(heldout=[DataSource(lines=LINES)])
    heldout = heldout_windows(config, lm, tokens=50, sample_seed=0)
    assert 50 <= sum(len(context) - 1 for context in heldout) < 50 + 12


def test_no_held_out_text_is_an_error(lm):
    text = next(line for line in LINES if not is_heldout(line, 0.01))
    with pytest.raises(UsageError, match="no text is held out"):
        heldout_windows(
            data(DataSource(lines=[text]), heldout_fraction=0.01), lm, tokens=10, sample_seed=0
        )


# --- activations ---


def all_activations(lm, config):
    rows = []
    for context in epoch_of(window_stream(lm, config)):
        ids = torch.tensor([context])
        rows.append(read_activations(lm, HOOKPOINT, ids, torch.ones_like(ids))[0, 1:])
    return torch.cat(rows)


def same_rows(a, b):
    a, b = a[a[:, 0].argsort()], b[b[:, 0].argsort()]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_buffer_with_room_for_everything_gives_every_activation_once_an_epoch(lm):
    config = data(buffer_tokens=10_000)
    expected = all_activations(lm, config)
    n = len(expected)
    stream = activation_stream(lm, config, batch_size=n)
    first = stream.next_batch()
    waited = stream.wait_seconds
    same_rows(first, expected)
    second = stream.next_batch()
    same_rows(second, expected)
    assert not torch.equal(first, second)
    assert stream.tokens == 2 * n and stream.wait_seconds - waited < waited


def test_a_small_buffer_gives_every_activation_of_its_epochs(lm):
    config = data(buffer_tokens=48)
    expected = all_activations(lm, config)
    stream = activation_stream(lm, config, batch_size=16)
    given = torch.cat([stream.next_batch() for _ in range(len(expected) * 4 // 16)])

    def counts(rows):  # contexts that begin alike have equal activations: counted together
        near = torch.cdist(rows, expected, compute_mode="donot_use_mm_for_euclid_dist")
        assert float(near.min(1).values.max()) < 1e-3
        return (near < 1e-3).int().argmax(1).bincount(minlength=len(expected))

    in_four_epochs = counts(given) / counts(expected).clamp_min(1)
    assert float(in_four_epochs[counts(expected) > 0].min()) >= 2
    assert float(in_four_epochs.max()) <= 6


def test_special_tokens_are_left_out_unless_they_are_wanted(lm):
    config = data(buffer_tokens=10_000)
    contexts = len(epoch_of(window_stream(lm, config)))
    without, with_bos = (
        activation_stream(lm, config.model_copy(update={"skip_special": skip}), batch_size=1)
        for skip in (True, False)
    )
    without.fill()
    with_bos.fill()
    sizes = [len(stream.state_dict().tensors["buffer"]) for stream in (without, with_bos)]
    assert sizes[1] - sizes[0] == contexts


@pytest.mark.parametrize("buffer_tokens", [48, 10_000], ids=["part", "everything"])
def test_batches_follow_from_the_seed_and_go_on_from_a_saved_position(lm, buffer_tokens):
    config = data(buffer_tokens=buffer_tokens)
    stream, again, other = (activation_stream(lm, config, seed=seed) for seed in (0, 0, 1))
    batches = [stream.next_batch() for _ in range(9)]
    assert all(torch.equal(again.next_batch(), batch) for batch in batches)
    assert not torch.equal(other.next_batch(), batches[0])
    saved = stream.state_dict()
    tensors = {name: tensor.clone() for name, tensor in saved.tensors.items()}
    resumed = activation_stream(lm, config)
    resumed.load_state_dict(saved._replace(tensors=tensors))
    for _ in range(30):
        assert torch.equal(stream.next_batch(), resumed.next_batch())
    assert stream.tokens == resumed.tokens == 39 * 16


def test_batches_come_in_the_type_the_model_runs_in():
    lm = load_language_model(dtype="bfloat16", device="cpu")
    assert activation_stream(lm, data()).next_batch().dtype == torch.bfloat16


def test_less_text_than_a_batch_is_an_error(lm):
    stream = activation_stream(lm, data(buffer_tokens=10_000), batch_size=5000)
    with pytest.raises(UsageError, match=r"expected at least train\.batch_size"):
        stream.next_batch()


def test_the_readme_of_the_embedded_model_is_text_like_any_other(lm):
    readme = Path(sources.__file__).parents[1] / "embedded" / "gemma2-tiny-en" / "README.md"
    stream = activation_stream(lm, data(DataSource(text=[str(readme)]), heldout_fraction=0.01))
    assert math.isfinite(float(stream.next_batch().sum()))
