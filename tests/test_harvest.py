"""Harvesting activations into a store: what is in it, that it is mixed, and that it survives being stopped."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from stores import LINES, TOKENS, content, in_order, make, recipe, rows, shards

from hsae_hub.activations import ActivationStream, WindowStream, harvest, harvesting, is_heldout
from hsae_hub.activations import buckets as buckets_file
from hsae_hub.activations.buckets import Buckets, bucket_of
from hsae_hub.errors import (
    CorruptError,
    MisfitError,
    ResourceError,
    UsageError,
)
from hsae_hub.models import Hookpoint
from hsae_hub.recipes import VocabularySection

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def lm(tiny_lm):
    return tiny_lm


@pytest.fixture(scope="module")
def whole(quick, tmp_path_factory):
    """A store that is only looked at."""
    return make(tmp_path_factory.mktemp("whole") / "store")


def contexts_of(lm, config):
    stream = WindowStream(
        config.data, lm, seed=config.seed_for("data"), sample_seed=config.seed_for("sample")
    )
    found = []
    while taken := stream.take(8):
        found += taken
    return found


# --- what is stored ---


def test_a_store_holds_what_streaming_gives_bit_for_bit(lm, tmp_path):
    made = make(tmp_path / "store", tokens=None)
    config = recipe()
    stream = ActivationStream(
        lm,
        Hookpoint.parse(config.hookpoint),
        config.data,
        batch_size=1,
        seed=config.seed_for("data"),
        sample_seed=config.seed_for("sample"),
    )
    stream.fill()
    assert in_order(rows(made.folder)) == in_order(stream.state_dict().tensors["buffer"])
    origin = made.config.origin
    assert origin._replace(data=origin.data[:-1]) == stream.origin


def test_its_rows_are_the_models_own_activations_without_special_tokens(lm, whole):
    expected, special = [], 0
    for context in contexts_of(lm, recipe()):
        ordinary = [int(token) not in lm.special_ids for token in context]
        hidden = lm.hf(context[None], output_hidden_states=True).hidden_states[1][0]
        expected.append(hidden[torch.tensor(ordinary)])
        special += len(context) - sum(ordinary)
        if sum(map(len, expected)) >= TOKENS:
            break
    expected = torch.cat(expected)[:TOKENS].double()
    stored = rows(whole.folder).double()
    distances = torch.cdist(stored, expected, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distances.min(1).values.max()) < 1e-3
    assert float(distances.min(0).values.max()) < 1e-3
    assert whole.config.special_dropped == whole.config.contexts >= special > 50


def test_held_out_documents_are_not_harvested(lm, tmp_path):
    held = [line for line in LINES if is_heldout(line, 0.1)]
    assert held
    without = {"train": [{"lines": LINES}]}
    kept = {"train": [{"lines": [line for line in LINES if line not in held]}]}
    made = make(tmp_path / "a", tokens=None, data=without)
    other = make(tmp_path / "b", tokens=None, data={**kept, "heldout": [{"lines": ["x"]}]})
    assert in_order(rows(made.folder)) == in_order(rows(other.folder))


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_rows_are_rounded_to_the_type_asked_for(whole, tmp_path, dtype, digits):
    made = make(tmp_path / "store", dtype=dtype)
    exact, rounded = rows(whole.folder), rows(made.folder)
    assert rounded.dtype == getattr(torch, dtype)
    assert torch.equal(exact.to(rounded.dtype), rounded)
    error = (rounded.float() - exact).abs()
    assert float((error / exact.abs().clamp_min(1e-3)).max()) <= 2.0**-digits  # subnormals aside
    assert made.config.size < 0.52 * whole.config.size


def test_all_of_the_data_is_harvested_once_or_as_much_as_there_is(lm, tmp_path, capsys):
    seen = []
    everything = make(
        tmp_path / "all", tokens=None, on_progress=lambda *told: seen.append(told)
    ).config
    n = sum(len(context) - 1 for context in contexts_of(lm, recipe()))
    assert everything.activations == n > TOKENS
    phases = list(dict.fromkeys(phase for phase, _, _ in seen))
    assert phases == ["sample", "count", "harvest", "shuffle"]
    assert [told for told in seen if told[0] == "harvest"][-1] == ("harvest", n, n)
    more = make(tmp_path / "more", tokens=50 * n, shard_tokens=n // 4).config
    assert more.activations == n
    assert 4 <= len(more.shards) <= 6
    assert in_order(rows(tmp_path / "all")) == in_order(rows(tmp_path / "more"))


def test_statistics_agree_with_numpy(whole):
    told, stored = whole.config.statistics, rows(whole.folder).numpy().astype(np.float64)
    norms = np.linalg.norm(stored, axis=1)
    assert told.norm_mean == pytest.approx(norms.mean(), rel=1e-6)
    assert told.norm_std == pytest.approx(norms.std(), rel=1e-4)
    assert (told.norm_min, told.norm_max) == pytest.approx((norms.min(), norms.max()), rel=1e-6)
    for q, value in told.norm_quantiles.items():
        exact = np.quantile(norms, float(q), method="inverted_cdf")
        assert value == pytest.approx(exact, rel=1e-3)
    assert told.outlier_above == pytest.approx(6 * np.median(norms), rel=3e-3)
    np.testing.assert_allclose(told.mean, stored.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.std, stored.std(0), rtol=1e-4)


def test_outliers_are_counted_and_kept(lm, tmp_path):
    """BOS has a far larger norm than other tokens: kept, it is the outlier that users complain of."""
    made = make(tmp_path / "store", tokens=None, data={"skip_special": False}).config
    norms = rows(tmp_path / "store").norm(dim=-1)
    told = made.statistics
    assert told.outliers == int((norms >= told.outlier_above).sum())
    assert made.activations == len(norms) and made.special_dropped == 0


# --- the shuffle ---


def test_buckets_follow_from_the_row_alone_and_are_even():
    whole = bucket_of(7, 0, 100_000, 13)
    pieces = [bucket_of(7, start, 999, 13) for start in (0, 1, 2, 3, 5000, 98_001)]
    for start, piece in zip((0, 1, 2, 3, 5000, 98_001), pieces, strict=True):
        assert np.array_equal(piece, whole[start : start + 999])
    assert not np.array_equal(bucket_of(8, 0, 999, 13), pieces[0])
    expected = 100_000 / 13
    chi2 = ((np.bincount(whole, minlength=13) - expected) ** 2 / expected).sum()
    assert chi2 < 12 + 5 * math.sqrt(24)  # 12 degrees of freedom, five standard deviations
    neighbours = np.corrcoef(whole[:-1], whole[1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(100_000)


def test_rows_are_mixed_over_the_whole_store(tmp_path, monkeypatch):
    numbers = itertools.count()

    def numbered(lm, hookpoint, batch):
        own = [next(numbers) for _ in range(int(batch.kept.sum()))]
        return torch.tensor(own, dtype=torch.float32)[:, None].expand(-1, 256)

    monkeypatch.setattr(harvesting, "read_batch", numbered)
    made = make(tmp_path / "store", tokens=None)
    n = made.config.activations
    found = [shard[:, 0].numpy() for shard in shards(made.folder)]
    order = np.concatenate(found)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / math.sqrt(n)
    spread = n / math.sqrt(12)
    for shard in found:  # each holds tokens from everywhere: mean and spread of a uniform sample
        assert abs(shard.mean() - n / 2) < 5 * spread / math.sqrt(len(shard))
        assert abs(shard.std() - spread) < 5 * spread / math.sqrt(len(shard))


def test_another_seed_gives_another_order_of_the_same_lines(whole, tmp_path, lm):
    lines = {"train": [{"lines": LINES}]}
    first = make(tmp_path / "a", tokens=None, data=lines)
    again = make(tmp_path / "b", tokens=None, data=lines)
    assert content(first.folder) == content(again.folder)
    other = recipe(**lines).model_copy(update={"seed": 1})
    mixed = harvest(other, tmp_path / "c", shard_tokens=180, device="cpu")
    assert not torch.equal(rows(mixed.folder), rows(first.folder))
    assert mixed.config.activations == first.config.activations


def test_a_small_buffer_writes_the_same_buckets(tmp_path, monkeypatch):
    values = np.arange(4000, dtype=np.uint8).reshape(1000, 4)
    found = []
    for name, size in (("large", 1 << 20), ("small", 40)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(buckets_file, "BUFFER_BYTES", size)
        buckets = Buckets(tmp_path / name, 5, 4, seed=0)
        for at in range(0, 1000, 7):
            buckets.add(values[at : at + 7])
        buckets.commit()
        assert sum(buckets.rows) == buckets.added == 1000
        found.append(buckets.read(range(5)))
    assert np.array_equal(*found)


# --- refused ---


def test_a_full_disk_is_noticed_before_anything_is_read(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(harvesting.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(harvesting, "read_batch", None)
    message = r"1,000 activations need 0\.001208 GB on the disk of .*, where 0\.0005 GB are free"
    with pytest.raises(ResourceError, match=message):
        make(tmp_path / "store")
    with pytest.raises(ResourceError, match=r"5\d\d activations or more need"):
        make(tmp_path / "all", tokens=None)


def test_values_that_do_not_fit_are_refused(lm, tmp_path, monkeypatch):
    def read(factor):
        return lambda *args: torch.full((88, 256), 300.0) * factor

    monkeypatch.setattr(harvesting, "read_batch", read(1000.0))
    with pytest.raises(UsageError, match=r"300,000 is too large for float16") as caught:
        make(tmp_path / "a", dtype="float16")
    assert caught.value.fix == "--dtype bfloat16"
    monkeypatch.setattr(harvesting, "read_batch", read(math.inf))
    with pytest.raises(CorruptError, match="22528 of 22528 values that were read are not finite"):
        make(tmp_path / "b")


def test_rows_of_a_weight_need_no_store(tmp_path):
    rows = {"hookpoint": "lm_head.weight"}
    data = recipe().data.model_copy(update={"vocabulary": VocabularySection()})
    with pytest.raises(UsageError, match="is a weight of the model; its rows need no store"):
        harvest(recipe().model_copy(update={**rows, "data": data}), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_sae_of_another_width_and_empty_text_are_refused(tmp_path):
    wide = recipe().model_copy(update={"sae": recipe().sae.model_copy(update={"d_in": 128})})
    with pytest.raises(MisfitError, match=r"width 128 but .* has width 256"):
        harvest(wide, tmp_path / "a", device="cpu")
    for tokens in (None, 10):
        with pytest.raises(UsageError, match="no text"):
            make(tmp_path / f"b{tokens}", data={"train": [{"lines": [""]}]}, tokens=tokens)
