"""Text sources, contexts and the stream of activations."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from hsae_hub.activations import (
    ActivationStream,
    WindowStream,
    decoding,
    documents,
    heldout_windows,
    is_heldout,
    python_docs,
    sample_contexts,
    sources,
    windows,
)
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.models import Hookpoint, load_language_model, read_activations
from hsae_hub.recipes import DataConfig, DataSource

HOOKPOINT = Hookpoint.parse("model.layers.0")
LINES = [f"Sentence {i} is about the number {i * i} and a few other things." for i in range(30)]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(device="cpu")


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


# --- documents ---


def test_python_docs_are_prose_and_no_paragraph_comes_twice():
    docs = python_docs()
    paragraphs = [paragraph for doc in docs for paragraph in doc.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    assert len(docs) > 100 and sum(map(len, docs)) > 200_000
    assert not any(line.startswith((">>>", "+--", "===")) for line in "\n".join(docs).splitlines())


def test_text_files_come_sorted_and_once(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"This is {name}.")
    patterns = [f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt"]
    found = list(documents(DataSource(text=patterns)))
    assert found == ["This is a.txt.", "This is b.txt.", "This is deep/c.txt."]


def test_a_long_file_is_cut_into_documents_at_blank_lines(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(20)]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    found = list(documents(DataSource(text=[str(tmp_path / "long.txt")])))
    assert len(found) > 3
    assert all(len(text) >= sources.PASSAGE for text in found[:-1])
    assert [p.strip() for p in "\n\n".join(found).split("\n\n")] == [p.strip() for p in paragraphs]


def test_a_file_without_blank_lines_is_cut_too(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(f"{i} " + "word " * 20 for i in range(1000)))
    found = list(documents(DataSource(text=[str(tmp_path / "lines.txt")])))
    assert max(map(len, found)) < 1.1 * sources.LONGEST_PASSAGE


def test_a_pattern_without_files_says_so(tmp_path):
    with pytest.raises(NotFoundError, match=r"nothing-\*\.txt"):
        list(documents(DataSource(text=[f"{tmp_path}/nothing-*.txt"])))


def test_a_file_that_is_no_text_says_so(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"binary\.txt is not UTF-8"):
        list(documents(DataSource(text=[str(tmp_path / "binary.txt")])))


@pytest.fixture
def data_set(tmp_path):
    rows = [json.dumps({"body": line}) for line in LINES]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return str(tmp_path)


def test_a_data_set_is_streamed_from_any_row(data_set):
    source = DataSource(dataset=data_set, column="body")
    assert list(documents(source)) == LINES
    assert list(documents(source, start=27)) == LINES[27:]


def test_a_data_set_without_the_column_names_those_it_has(data_set):
    with pytest.raises(NotFoundError, match="no column 'text'") as caught:
        list(documents(DataSource(dataset=data_set)))
    assert "body" in caught.value.why


def test_a_data_set_that_is_not_there_says_so(data_set):
    with pytest.raises(NotFoundError, match="split nope"):
        list(documents(DataSource(dataset=data_set, split="nope")))


def test_held_out_is_a_matter_of_the_text_alone():
    texts = [f"text {i}" for i in range(4000)]
    share = sum(is_heldout(text, 0.1) for text in texts) / len(texts)
    assert 0.08 < share < 0.12
    assert {t for t in texts if is_heldout(t, 0.05)} < {t for t in texts if is_heldout(t, 0.1)}


# --- text that the model samples ---


def sample(lm, **settings):
    settings = {"context_length": 10, "temperature": 1.0, "seed": 3} | settings
    return sample_contexts(lm, 40, **settings)


def test_sampled_text_follows_from_the_seed_and_leaves_the_global_one_alone(lm):
    before = torch.get_rng_state()
    first, again, other = sample(lm), sample(lm), sample(lm, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    assert [len(context) for context in first] == [9, 9, 9, 9, 4]


def test_sampled_text_is_drawn_from_the_models_own_distribution(lm):
    contexts = torch.stack(sample(lm)[:4]).long()
    generator = torch.Generator().manual_seed(3)
    ids = torch.full((5, 1), lm.tokenizer.bos_token_id)
    for _ in range(9):  # without a cache, and by counting probabilities up to the number drawn
        weights = lm.hf(input_ids=ids).logits[:, -1].float().softmax(-1).double()
        drawn = torch.rand(5, 1, dtype=torch.float64, generator=generator)
        below = weights.cumsum(-1) <= drawn * weights.sum(-1, keepdim=True)
        ids = torch.cat([ids, below.sum(-1, keepdim=True)], 1)
    assert torch.equal(ids[:4, 1:], contexts)


def test_a_low_temperature_makes_sampled_text_likely(lm):
    def loss(contexts):
        ids = torch.stack([windows.with_bos(c, lm, data()) for c in contexts[:4]])
        return float(lm.hf(input_ids=ids, labels=ids).loss)

    assert loss(sample(lm, temperature=0.2)) < loss(sample(lm)) - 1


@pytest.mark.parametrize("window", [512, 4], ids=["full", "sliding"])
def test_light_attention_is_gemmas_own(lm, window):
    hf = copy.deepcopy(lm.hf)
    hf.config.sliding_window = window
    for layer in hf.model.layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = window
    ids = torch.randint(4, 4096, (3, 12), generator=torch.Generator().manual_seed(0))

    def step_by_step():
        cache, rows = None, []
        for i in range(12):
            output = hf(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            rows.append(output.logits[:, -1])
        return torch.stack(rows, 1)

    expected = hf(input_ids=ids).logits
    with decoding.light_attention(hf):
        assert hf.config._attn_implementation == "hsae_grouped"
        for given in (hf(input_ids=ids).logits, step_by_step()):
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    assert hf.config._attn_implementation == "eager"
    assert torch.equal(hf(input_ids=ids).logits, expected)


def with_special(lm, **tokens):
    tokenizer = copy.deepcopy(lm.tokenizer)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    return dataclasses.replace(lm, tokenizer=tokenizer)


def test_sampling_needs_a_bos(lm):
    with pytest.raises(UsageError, match="cannot sample"):
        sample(with_special(lm, bos_token=None))


def test_sampled_text_ends_at_eos(lm):
    first = sample(lm)[0]
    eos = lm.tokenizer.convert_ids_to_tokens(int(first[5]))
    contexts = sample(with_special(lm, eos_token=eos))
    assert int(first[5]) not in torch.cat(contexts).tolist()
    assert sum(map(len, contexts)) == 40


# --- contexts ---


def test_contexts_are_consecutive_pieces_after_a_bos(lm):
    config = data(context_length=6)
    bos = lm.tokenizer.bos_token_id
    pieces = windows.tokenise(lm, LINES[:1], config)
    expected = lm.tokenizer(LINES[0], add_special_tokens=False)["input_ids"]
    assert torch.cat(pieces).tolist() == expected
    assert [len(p) for p in pieces[:-1]] == [5] * (len(pieces) - 1)
    assert windows.with_bos(pieces[0], lm, config).tolist() == [bos, *expected[:5]]
    assert len(windows.tokenise(lm, LINES[:3], data(windows="first", context_length=6))) == 3
    assert len(windows.tokenise(lm, LINES[:1], data(context_length=6, bos=False))[0]) == 6


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
    expected = [windows.with_bos(p, lm, config) for p in windows.tokenise(lm, trained, config)]
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
    rows = {
        tuple(windows.with_bos(p, lm, mixed).tolist()) for p in windows.tokenise(lm, LINES, mixed)
    }
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
    n_lines = sum(len(piece) for piece in windows.tokenise(lm, held, config))
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
