"""Language models: loading, naming a place, reading it."""

import copy
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from hsae_hub.assets import EMBEDDED_MODEL, embedded_model
from hsae_hub.errors import (
    CorruptError,
    DeniedError,
    HSAEError,
    MisfitError,
    NetworkError,
    NotFoundError,
    ResourceError,
    UsageError,
)
from hsae_hub.models import (
    Hookpoint,
    LanguageModel,
    finding,
    load_language_model,
    loading,
    model_lock,
    read_activations,
    tokenizer_sha256,
)

TEXTS = ["The history of the town began in 1871.", "Rain"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_language_model(device="cpu")


@pytest.fixture(params=["left", "right"])
def batch(request: pytest.FixtureRequest, lm: LanguageModel) -> dict[str, torch.Tensor]:
    encoded = lm.tokenizer(TEXTS, padding=True, padding_side=request.param, return_tensors="pt")
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


def hooks_on(hf: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf.modules())


def tiny(family: str) -> PreTrainedModel:
    llama = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 20,
    }
    configs = {
        "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=32),
        "llama": LlamaConfig(**llama),
        "qwen2": Qwen2Config(**llama),
        "qwen3": Qwen3Config(**llama, head_dim=8),
    }
    return AutoModelForCausalLM.from_config(configs[family]).eval()


def test_the_embedded_model_loads_frozen(lm: LanguageModel) -> None:
    assert (lm.id, lm.revision, lm.d_model, lm.n_layers) == (EMBEDDED_MODEL, None, 256, 6)
    assert not lm.hf.training and not any(p.requires_grad for p in lm.hf.parameters())
    assert lm.dtype == torch.float32 and lm.device == torch.device("cpu")
    assert lm.special_ids == {0, 1, 2, 3}


def test_a_folder_loads_in_the_dtype_that_is_asked_for(lm: LanguageModel) -> None:
    other = load_language_model(embedded_model(), dtype="auto", device="cpu")
    assert other.dtype == torch.bfloat16 and other.id == str(embedded_model())
    assert tokenizer_sha256(other.tokenizer) == tokenizer_sha256(lm.tokenizer)


def test_a_loaded_model_is_taken_as_it_is(lm: LanguageModel) -> None:
    hf = copy.deepcopy(lm.hf).train()
    again = load_language_model((hf, lm.tokenizer))
    assert again.hf is hf and again.tokenizer is lm.tokenizer
    assert not hf.training and load_language_model(again) is again
    assert load_language_model(again, dtype="bfloat16").hf.dtype == torch.bfloat16


def test_a_tokenizer_is_known_by_what_its_ids_stand_for(lm: LanguageModel) -> None:
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=3)  # leaves both in its own state
    assert tokenizer_sha256(tokenizer) == tokenizer_sha256(lm.tokenizer)
    tokenizer.add_tokens(["corgi"])
    assert tokenizer_sha256(tokenizer) != tokenizer_sha256(lm.tokenizer)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        load_language_model(tmp_path)
    with pytest.raises(NotFoundError, match="no folder /no/such/folder"):
        load_language_model("/no/such/folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--other").mkdir()
    with pytest.raises(NetworkError, match="did you mean 'gemma2-tiny-en'") as error:
        load_language_model("gemma2-tiny")
    assert error.value.fix == "in the cache: gemma2-tiny-en, org/other"
    assert error.value.why == "HF_HUB_OFFLINE is set"


def test_a_folder_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "hsae"}')
    with pytest.raises(CorruptError, match="cannot be loaded"):
        load_language_model(tmp_path)


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (GatedRepoError, DeniedError, "hf auth login"),
        (RepositoryNotFoundError, NotFoundError, "hf auth login"),
        (LocalEntryNotFoundError, NetworkError, "in the cache"),
        (ConnectionError, NetworkError, "in the cache"),
    ],
)
def test_errors_of_the_hub_become_ours(
    raised: type[Exception],
    expected: type[HSAEError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: object, **_kwargs: object) -> str:
        raise raised.__new__(raised, "as the client says it")

    monkeypatch.setattr(finding, "hf_hub_download", fail)
    with pytest.raises(expected) as error:
        load_language_model("google/gemma-2-2b")
    assert "google/gemma-2-2b" in error.value.message and said in error.value.fix


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ResourceError, match="no device cuda:99"):
        load_language_model(device="cuda:99")
    with pytest.raises(UsageError, match="'gpu' is no device"):
        load_language_model(device="gpu")


def test_too_little_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_free_bytes", lambda device: 20_000_000)
    with pytest.raises(ResourceError, match=r"needs 0\.0 GB on cpu, where 0\.0 GB are free"):
        load_language_model(device="cpu")
    load_language_model(device="cpu", dtype="bfloat16")


@pytest.mark.parametrize(
    ("text", "path", "side"),
    [
        ("3", "layers.3", "output"),
        (3, "layers.3", "output"),
        ("layers.3", "layers.3", "output"),
        ("model.layers.3", "layers.3", "output"),
        ("model.layers.3.output", "layers.3", "output"),
        ("model.layers.3.input", "layers.3", "input"),
        ("transformer.h.3", "layers.3", "output"),
        ("blocks.3.hook_resid_post", "layers.3", "output"),
        ("blocks.3.hook_resid_pre", "layers.3", "input"),
        ("model.layers.3.mlp", "layers.3.mlp", "output"),
        ("model.layers.3.self_attn.o_proj.input", "layers.3.self_attn.o_proj", "input"),
        ("model.norm", "model.norm", "output"),
        ("lm_head.weight", "lm_head", "weight"),
        ("model.embed_tokens.weight", "model.embed_tokens", "weight"),
        ("model.layers.3.mlp.gate_proj.weight", "layers.3.mlp.gate_proj", "weight"),
    ],
)
def test_every_spelling_of_a_place_is_read(text: str | int, path: str, side: str) -> None:
    assert Hookpoint.parse(text) == (path, side)
    assert Hookpoint.parse(str(Hookpoint.parse(text))) == (path, side)


@pytest.mark.parametrize(
    "text", ["", "model..layers", "blocks.3.hook_z", "layer three", "-1", "3.weight"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no place"):
        Hookpoint.parse(text)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_place_is_the_same_in_every_family(family: str, side: str, lm: LanguageModel) -> None:
    other = LanguageModel(tiny(family), lm.tokenizer, family)
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        states = other.hf(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in range(3):
        place = Hookpoint.parse(f"layers.{layer}.{side}")
        config = place.config(other)
        assert (
            config.path == ("transformer.h" if family == "gpt2" else "model.layers") + f".{layer}"
        )
        assert Hookpoint.from_config(config) == place and place.width(other) == 16
        found = read_activations(other, place, ids, mask)
        if config.hidden_states is None:
            assert (layer, side) == (2, "output")
        else:
            torch.testing.assert_close(found, states[config.hidden_states], rtol=0, atol=0)
    with pytest.raises(MisfitError, match="its layers are 0 to 2"):
        Hookpoint.parse("3").module(other.hf)


def test_a_module_that_is_not_there_is_refused_with_the_nearest(lm: LanguageModel) -> None:
    with pytest.raises(MisfitError, match=r"did you mean 'model\.layers\.3\.mlp'"):
        Hookpoint.parse("model.layers.3.mpl").config(lm)


def test_a_place_says_what_it_is_called_elsewhere(lm: LanguageModel) -> None:
    config = Hookpoint.parse("3").config(lm)
    assert (config.path, config.side) == ("model.layers.3", "output")
    assert (config.transformer_lens, config.hidden_states) == ("blocks.3.hook_resid_post", 4)
    mlp = Hookpoint.parse("model.layers.3.mlp.act_fn")
    assert mlp.config(lm).transformer_lens is None and mlp.width(lm) == 768


@pytest.mark.parametrize("place", ["model.layers.0.input", "model.layers.2", "model.layers.4"])
def test_what_is_read_is_what_transformers_gives(
    place: str, lm: LanguageModel, batch: dict[str, torch.Tensor]
) -> None:
    hookpoint = Hookpoint.parse(place)
    found = read_activations(lm, hookpoint, **batch)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    other = copy.deepcopy(lm.hf)  # transformers leaves hooks of its own after output_hidden_states
    with torch.no_grad():
        out = other(**batch, position_ids=positions, output_hidden_states=True)
    index = hookpoint.config(lm).hidden_states
    assert index is not None
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], out.hidden_states[index][real], rtol=0, atol=0)
    assert hooks_on(lm.hf) == 0


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
def test_the_weight_of_an_embedding_gives_each_token_its_row(
    family: str, lm: LanguageModel
) -> None:
    other = lm if family == "gemma2" else LanguageModel(tiny(family), lm.tokenizer, family)
    ids = torch.tensor([[5, 6, 5], [9, 8, 7]])
    mask = torch.ones_like(ids)
    inputs = {"gpt2": "transformer.wte"}.get(family, "model.embed_tokens")
    d_model = other.d_model
    unembedding = Hookpoint.parse("lm_head.weight")
    assert Hookpoint.from_config(unembedding.config(other)) == unembedding
    assert unembedding.config(other).path == "lm_head" and unembedding.width(other) == d_model
    rows = read_activations(other, unembedding, ids, mask)
    x = torch.randn(3, d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = other.hf.lm_head(x)
    torch.testing.assert_close((rows @ x.T)[1, 0], logits[:, 9])
    embedded = read_activations(other, Hookpoint.parse(f"{inputs}.weight"), ids, mask)
    assert torch.equal(embedded, other.hf.get_input_embeddings().weight[ids])


@pytest.mark.parametrize("place", ["layers.3.weight", "layers.3.mlp.gate_proj.weight"])
def test_a_weight_without_a_row_a_token_is_refused(place: str, lm: LanguageModel) -> None:
    with pytest.raises(MisfitError, match="has no row for each token") as caught:
        Hookpoint.parse(place).config(lm)
    assert "lm_head.weight" in caught.value.fix and "model.embed_tokens.weight" in caught.value.fix


def test_padding_changes_nothing(lm: LanguageModel, batch: dict[str, torch.Tensor]) -> None:
    place = Hookpoint.parse("4")
    both = read_activations(lm, place, **batch)
    for text, row, mask in zip(TEXTS, both, batch["attention_mask"], strict=True):
        ids = lm.tokenizer(text, return_tensors="pt").input_ids
        alone = read_activations(lm, place, ids, torch.ones_like(ids))
        torch.testing.assert_close(row[mask.bool()], alone[0], rtol=0, atol=1e-4)


def test_later_layers_are_not_run(lm: LanguageModel, batch: dict[str, torch.Tensor]) -> None:
    ran: list[int] = []
    layers = lm.hf.model.layers
    handles = [
        layer.register_forward_pre_hook(lambda _m, _a, i=i: ran.append(i))
        for i, layer in enumerate(layers)
    ]
    read_activations(lm, Hookpoint.parse("2"), **batch)
    assert ran == [0, 1, 2]
    ran.clear()
    read_activations(lm, Hookpoint.parse("layers.2.input"), **batch)
    assert ran in ([0, 1], [0, 1, 2])  # the layer's own hook may come before ours, its body not
    for handle in handles:
        handle.remove()
    assert hooks_on(lm.hf) == 0


def test_an_error_on_the_way_leaves_no_hook(lm: LanguageModel) -> None:
    mask = torch.ones(1, 1, dtype=torch.int64)
    with pytest.raises(IndexError):
        read_activations(lm, Hookpoint.parse("2"), mask * 10**6, mask)
    assert hooks_on(lm.hf) == 0
    with pytest.raises(RuntimeError, match="never ran"):
        read_activations(lm, Hookpoint.parse("model.layers"), mask, mask)
    assert hooks_on(lm.hf) == 0


def test_a_model_has_one_lock_for_every_thread(lm: LanguageModel) -> None:
    assert model_lock(lm.hf) is model_lock(lm.hf)
    entered = threading.Event()

    def work() -> None:
        read_activations(lm, Hookpoint.parse("0"), torch.ones(1, 2).long(), torch.ones(1, 2).long())
        entered.set()

    with model_lock(lm.hf):
        thread = threading.Thread(target=work)
        thread.start()
        assert not entered.wait(0.2)
    thread.join()
    assert entered.is_set()
