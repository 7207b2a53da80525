"""Where text comes from: files, data sets, Python's documentation, and the model itself."""

import copy
import dataclasses
import json

import httpx
import pytest
import torch
from datasets.exceptions import DatasetNotFoundError

from hsae_hub.activations import (
    decoding,
    documents,
    is_heldout,
    python_docs,
    sample_contexts,
    sources,
)
from hsae_hub.errors import DeniedError, NetworkError, NotFoundError, UsageError
from hsae_hub.models import load_language_model
from hsae_hub.recipes import DataSource

LINES = [f"Sentence {i} is about the number {i * i} and a few other things." for i in range(30)]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(device="cpu")


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


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."), DeniedError, "gated"),
        (ConnectionError("Couldn't reach 'x' on the Hub"), NetworkError, "cannot reach x"),
        (httpx.ConnectError("no route"), NetworkError, "no route"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_data_set_out_of_reach_says_so(monkeypatch, error, expected, told, at_once):
    def rows():
        yield {"text": "One row."}
        raise error

    def load_dataset(*arguments, **options):
        if at_once:
            raise error
        return rows()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = documents(DataSource(dataset="x"))
    with pytest.raises(expected, match=told):
        list(found)


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
        ids = torch.stack([torch.cat([torch.tensor([2]), c.long()]) for c in contexts[:4]])
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
