"""What may be attached to what, and how edits are written."""

import copy
import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

import hsae_hub
from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import ArtifactInfo
from hsae_hub.assets import embedded_model
from hsae_hub.attach import attach
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.errors import MisfitError, NetworkError, UsageError
from hsae_hub.models import LanguageModel, load_language_model

WORDS = "the history of a town rain began in".split()


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    return oracle.saved_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return oracle.fresh_model()


def without_bos(family: str, width: int = 256) -> LanguageModel:
    """A random model whose tokenizer has only EOS, as GPT-2's."""
    vocabulary = {word: i for i, word in enumerate(["<eos>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    configs = {
        "gpt2": GPT2Config(
            vocab_size=20,
            n_embd=width,
            n_layer=4,
            n_head=4,
            n_positions=64,
            eos_token_id=19,
            bos_token_id=19,
        ),
        "llama": LlamaConfig(
            vocab_size=20,
            hidden_size=width,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            eos_token_id=19,
        ),
    }
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(configs[family])
    return load_language_model((hf, tokenizer), device="cpu")


def changed(sae: SAE[Any], **update: Any) -> SAE[Any]:
    """The same SAE with another config around it."""
    other = copy.copy(sae)
    config = sae.info.config.model_copy(update=update)
    object.__setattr__(other, "info", ArtifactInfo(config, sae.info.stats, "elsewhere"))
    return other


def test_an_sae_brings_its_own_model(sae: SAE[Any]) -> None:
    lm = attach(sae, device="cpu")
    assert lm.lm.id == "gemma2-tiny-en" and lm.hookpoint == ("layers.3", "output")
    assert repr(lm).endswith("to gemma2-tiny-en, model.layers.3, cpu)")


@pytest.mark.parametrize("kind", ["language model", "pair", "folder", "name"])
def test_a_model_may_be_given_in_any_form(kind: str, sae: SAE[Any], model: LanguageModel) -> None:
    forms: dict[str, Any] = {
        "language model": model,
        "pair": (model.hf, model.tokenizer),
        "folder": embedded_model(),
        "name": "gemma2-tiny-en",
    }
    assert attach(sae, forms[kind], device="cpu").generate("Rain", max_new_tokens=1)


def test_a_model_of_another_width_is_refused_with_both_numbers(sae: SAE[Any]) -> None:
    with pytest.raises(MisfitError, match=r"reads width 256 .* has width 32") as error:
        attach(sae, without_bos("llama", 32))
    assert "gemma2-tiny-en" in error.value.fix


def test_a_layer_that_is_not_there_is_refused(sae: SAE[Any], model: LanguageModel) -> None:
    wrong = sae.info.config.hookpoint.model_copy(update={"path": "model.layers.20"})
    with pytest.raises(MisfitError, match=r"no layer 20 .* its layers are 0 to 5"):
        attach(changed(sae, hookpoint=wrong), model)
    with pytest.raises(MisfitError, match=r"reads layers\.3, not layers\.2"):
        attach(sae, model, hookpoint="2")
    assert attach(sae, model, hookpoint="blocks.3.hook_resid_post").hookpoint.layer == 3


def test_another_tokenizer_is_refused(sae: SAE[Any]) -> None:
    with pytest.raises(MisfitError, match="was trained with tokenizer"):
        attach(sae, without_bos("llama"))


def test_another_family_is_refused(sae: SAE[Any], model: LanguageModel) -> None:
    elsewhere = sae.info.config.hookpoint.model_copy(update={"path": "transformer.h.3"})
    with pytest.raises(MisfitError, match=r"reads transformer\.h\.3 .* place is model\.layers\.3"):
        attach(changed(sae, hookpoint=elsewhere), model)


def test_another_name_is_warned_of(sae: SAE[Any], model: LanguageModel) -> None:
    named = sae.info.config.model.model_copy(update={"id": "org/other-model"})
    with pytest.warns(UserWarning, match=r"org/other-model .* attached to gemma2-tiny-en"):
        attach(changed(sae, model=named), model)
    here = sae.info.config.model.model_copy(update={"id": "org/Gemma2-Tiny-en"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(changed(sae, model=here), model)


def test_a_model_that_cannot_be_had_says_so(sae: SAE[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = sae.info.config.model.model_copy(update={"id": "google/gemma-2-2b"})
    with pytest.raises(NetworkError, match="google/gemma-2-2b is not in the cache"):
        attach(changed(sae, model=named))


def test_an_sae_that_says_nothing_of_itself_needs_a_model_and_a_place(model: LanguageModel) -> None:
    sae = build(oracle.HSAE, seed=0)
    with pytest.raises(UsageError, match="which place"):
        attach(sae, model)
    with pytest.raises(UsageError, match="which model"):
        attach(sae, hookpoint="3")
    lm = attach(sae, model, hookpoint="model.layers.3")
    assert repr(lm).startswith("Attached(hsae 64 × 4 to")
    with pytest.raises(UsageError, match="attach takes an SAE"):
        inspect.unwrap(attach)("org/name")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_bos_only_padding_is_left_alone(family: str) -> None:
    sae = build(oracle.HSAE, seed=0)
    model = without_bos(family)
    twin = LanguageModel(copy.deepcopy(model.hf), model.tokenizer, family)
    lm = attach(sae, model, hookpoint="2")
    texts = ["the history of a town", "rain"]
    row = 2.0 * oracle.row_of(sae, "5")
    with lm.steer({"5": 2.0}, units="raw"):
        found = lm._engine.logits(pad_left(model, encode_texts(model, texts)), lm._stack())
        text = lm.generate(texts, max_new_tokens=5)
    layer = (twin.hf.transformer.h if family == "gpt2" else twin.hf.model.layers)[2]
    handle = layer.register_forward_hook(lambda _m, _a, out: out + row)
    for i, one in enumerate(texts):  # every token of a text is edited, its first too
        ids = torch.tensor([model.tokenizer(one)["input_ids"]])
        with torch.no_grad():
            expected = twin.hf(input_ids=ids).logits[0]
            new = twin.hf.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
        torch.testing.assert_close(found[i, -ids.shape[1] :], expected, rtol=0, atol=1e-5)
        written = model.tokenizer.decode(new[ids.shape[1] :], skip_special_tokens=True)
        assert text[i].strip() == written
    handle.remove()
    with pytest.raises(UsageError, match="text 1 has no token"):
        lm.generate(["rain", ""])
    with pytest.raises(UsageError, match=r"has 70 tokens; .* reads at most 64"):
        lm.generate("rain " * 70)


def test_the_saved_sae_is_left_where_it_is(sae: SAE[Any], model: LanguageModel) -> None:
    weights = {name: (t.data_ptr(), t.clone()) for name, t in sae.weights().items()}
    assert attach(sae, model).sae is sae
    for name, tensor in sae.weights().items():
        assert tensor.data_ptr() == weights[name][0] and torch.equal(tensor, weights[name][1])


def test_a_folder_given_as_text_is_a_model(sae: SAE[Any], tmp_path: Path) -> None:
    folder = tmp_path / "gemma2-tiny-en"
    folder.symlink_to(embedded_model(), target_is_directory=True)
    assert attach(sae, str(folder), device="cpu").lm.id == str(folder)


def test_attach_is_the_function_also_when_its_room_was_imported_first(
    sae: SAE[Any], model: LanguageModel
) -> None:
    assert hsae_hub.attach(sae, model).lm is model
    vars(hsae_hub)["attach"] = sys.modules[
        "hsae_hub.attach"
    ]  # as `import hsae_hub.attach` leaves it
    assert hsae_hub.attach(sae, model).lm is model
