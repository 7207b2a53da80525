"""A store on disk: what is refused before memory is taken, and what only its hashes tell."""

import json

import pytest
import torch
from safetensors.torch import save_file
from stores import content, edit, make, recipe

from hsae_hub.activations import CachedStream, check_cache, open_store, read_store, verify_store
from hsae_hub.activations import cached as cached_file
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.recipes import Recipe

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def whole(quick, tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole") / "store", tokens=300, shard_tokens=100).folder


@pytest.fixture
def store(whole, tmp_path):
    """A copy that may be damaged."""
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def no_memory(monkeypatch):
    """Whatever is refused is refused before a shard is mapped."""
    monkeypatch.setattr(cached_file, "map_shard", None)


def test_a_store_is_what_was_written(store):
    verify_store(store)
    config = open_store(store).config
    assert config.size == sum(path.stat().st_size for path in store.glob("*.safetensors"))
    assert config.activations == 300 and config.dtype == torch.float32
    assert sorted(content(store)) == [
        *(f"shard-0000{n}.safetensors" for n in range(3)),
        "store.json",
    ]


def test_verifying_finds_a_flipped_byte(store):
    path = store / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    open_store(store)  # size and header are as they should be
    done = []
    with pytest.raises(CorruptError, match=r"1 of 3 shards .* not what was written: shard-00001"):
        verify_store(store, on_bytes=lambda *told: done.append(told))
    assert done[-1][0] == done[-1][1] == read_store(store).size


def foreign(**tensors):
    """Puts another safetensors file in a shard's place, with a size that `store.json` agrees to."""

    def change(store):
        path = store / "shard-00001.safetensors"
        save_file(tensors, path)
        size = path.stat().st_size
        edit(store, lambda data: data["shards"][1].update(size=size))

    return change


def shorten(store):
    path = store / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def header(text, *, length=None):
    def change(store):
        path = store / "shard-00001.safetensors"
        raw = path.read_bytes()
        said = (len(text) if length is None else length).to_bytes(8, "little")
        path.write_bytes((said + text + raw)[: len(raw)])

    return change


def claims(**values):
    def change(store):
        edit(store, lambda data: data["shards"][1].update(values))
        edit(store, lambda data: data.update(activations=sum(s["rows"] for s in data["shards"])))

    return change


HUGE = {"acts": {"dtype": "F32", "shape": [10**12, 256], "data_offsets": [0, 10**12 * 1024]}}


def claim_terabytes(store):
    header(json.dumps(HUGE).encode())(store)
    claims(rows=10**12)(store)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shorten, r"has \d+ bytes, expected \d+"),
        (foreign(acts=torch.zeros(100, 255)), r"expected acts"),
        (foreign(acts=torch.zeros(100, 256, dtype=torch.float16)), r"expected acts"),
        (foreign(acts=torch.zeros(1, 256), more=torch.zeros(1)), r"expected acts"),
        (foreign(weights=torch.zeros(100, 256)), r"expected acts"),
        (header(b"", length=1 << 62), "no safetensors header"),
        (header(b"[]"), "no safetensors header"),
        (header(b'{"acts": 7}'), "no safetensors header"),
        (claim_terabytes, "its values begin at byte"),
        (claims(rows=7), "expected acts"),
        (lambda store: edit(store, lambda d: d.update(format_version=2)), "reads 1"),
        (lambda store: edit(store, lambda d: d.update(activations=7)), "are not as many as"),
        (lambda store: edit(store, lambda d: d.update(d_in=7)), "another width than d_in"),
        (lambda store: edit(store, lambda d: d.update(extra=7)), "extra: unknown key"),
        (lambda store: edit(store, lambda d: d["plan"].update(dtype="int8")), r"plan\.dtype"),
        (lambda store: (store / "store.json").write_text("{"), "is not JSON"),
        (lambda store: (store / "store.json").write_text("[]"), "holds a list, expected an object"),
    ],
)
def test_what_cannot_be_a_store_is_refused_before_memory_is_taken(
    store, no_memory, damage, message
):
    damage(store)
    with pytest.raises(CorruptError, match=message):
        CachedStream(store, batch_size=16, seed=0)


def test_a_store_without_its_files_is_not_found(store, tmp_path, no_memory):
    (store / "shard-00002.safetensors").unlink()
    for read in (open_store, verify_store):
        with pytest.raises(NotFoundError, match=r"shard-00002\.safetensors is missing"):
            read(store)
    (store / "store.json").unlink()
    with pytest.raises(NotFoundError, match="holds no store of activations"):
        open_store(store)
    (store / ".harvest").mkdir()
    (store / ".harvest" / "state.json").write_text("{}")
    with pytest.raises(NotFoundError, match="holds no finished store") as caught:
        open_store(store)
    assert "goes on" in caught.value.fix


def with_cache(store, **changes):
    given = recipe(cache=str(store)).model_dump(mode="json")
    for key, value in changes.items():
        *path, last = key.split("__")
        section = given
        for part in path:
            section = section[part]
        section[last] = value
    return Recipe.model_validate(given)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model__id": "org/other"}, 'model.id: "gemma2-tiny-en" in the store, "org/other" in'),
        ({"model__revision": "main"}, 'model.revision: null in the store, "main" in the recipe'),
        ({"model__dtype": "bfloat16"}, "model.dtype:"),
        ({"hookpoint": "model.layers.1"}, 'hookpoint: "layers.0" in the store, "layers.1" in'),
        ({"data__context_length": 16}, "data.context_length: 12 in the store, 16 in the recipe"),
        ({"data__bos": False}, "data.bos: true in the store, false in the recipe"),
        ({"data__skip_special": False}, "data.skip_special:"),
        ({"data__windows": "first"}, "data.windows:"),
        ({"data__heldout_fraction": 0.2}, "data.heldout_fraction: 0.1 in the store, 0.2 in"),
        ({"data__heldout": [{"lines": ["x"]}]}, "data.heldout_fraction: 0.1 in the store, 0.0 in"),
        ({"data__train": [{"sample": 60}]}, "data.train.0.sample: not set in the store, 60 in"),
    ],
)
def test_a_store_of_something_else_is_refused(whole, changes, problem):
    with pytest.raises(UsageError, match="does not hold this recipe's activations") as caught:
        check_cache(with_cache(whole, **changes))
    assert any(line.startswith(problem) for line in caught.value.problems)
    assert problem.partition(":")[0] in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [{}, {"seed": 7}, {"hookpoint": "blocks.0.hook_resid_post"}, {"data__batch_contexts": 3}],
    ids=str,
)
def test_a_store_of_the_same_activations_is_taken(whole, changes):
    check_cache(with_cache(whole, **changes))


def test_a_commit_stands_for_the_branch_that_it_was_read_from(store):
    commit = "0" * 40
    edit(store, lambda data: data["plan"]["model"].update(revision="main"))
    edit(store, lambda data: data["model"].update(revision=commit))
    check_cache(with_cache(store, model__revision="main"))
    check_cache(with_cache(store, model__revision=commit))
    for other in (None, "1" * 40):
        with pytest.raises(UsageError, match=r"differ in model\.revision"):
            check_cache(with_cache(store, model__revision=other))
