"""What vLLM cannot do, or is not set up for, is told in one line, before vLLM is asked."""

import sys
from types import SimpleNamespace
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from transformers import AutoModelForCausalLM

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, attach, attaching
from hsae_hub.attach.vllm import VLLMRunner
from hsae_hub.attach.vllm_model import check_engine
from hsae_hub.errors import MisfitError, ResourceError, UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)


def engine(**changed: Any) -> Any:
    told = {"chunked": False, "caching": False, "dispatched": True, "taps": ()} | changed
    settings = SimpleNamespace(
        scheduler_config=SimpleNamespace(enable_chunked_prefill=told["chunked"]),
        cache_config=SimpleNamespace(enable_prefix_caching=told["caching"]),
    )
    entrypoint = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=settings))
    if "mode" in told:
        entrypoint = SimpleNamespace()
    return SimpleNamespace(
        dispatched=told["dispatched"], taps=told["taps"], vllm_entrypoint=entrypoint
    )


def test_an_engine_that_would_miss_tokens() -> None:
    check_engine(engine())
    refused = {
        "not loaded": {"dispatched": False},
        "CUDA graphs": {"taps": ("model.layers.3.output",)},
        "asynchronous": {"mode": "async"},
        "in pieces": {"chunked": True},
        "other prompts": {"caching": True},
    }
    for text, changed in refused.items():
        with pytest.raises(UsageError, match=text) as told:
            check_engine(engine(**changed))
        assert told.value.fix.startswith("VLLM(…")


@pytest.fixture(scope="module")
def on_vllm(sae: SAE[Any], plain: LanguageModel) -> Attached:
    """Attached to an engine that nobody must call."""
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(plain.hf.config)
    runner = VLLMRunner(SimpleNamespace(_module=plain.hf), hf)
    lm = LanguageModel(hf, plain.tokenizer, plain.id, remote=True, reader=runner.read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attaching, "vllm_language_model", lambda *_: (lm, runner))
        attached = attach(sae, engine="vllm")
    attached._probed.add("sae")
    return attached


def test_what_vllm_cannot_do(on_vllm: Attached) -> None:
    whole = "comes back as a whole"
    with pytest.raises(UsageError, match=whole):
        on_vllm.generate("Rain", num_beams=2)
    with pytest.raises(UsageError, match=whole):
        list(on_vllm.stream("Rain"))
    with pytest.raises(UsageError, match=whole):
        on_vllm.generate_beside("Rain")
    with pytest.raises(UsageError, match="no gradients come from there") as told:
        on_vllm.attribute("Rain fell on the town")
    assert told.value.fix == "attach(sae) runs it here"
    with pytest.raises(UsageError, match="another engine"):
        on_vllm.trace("Rain")


def test_places_that_vllm_has_not_got(on_vllm: Attached, sae: SAE[Any]) -> None:
    merged = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList()})})
    runner = VLLMRunner(SimpleNamespace(_module=merged), on_vllm.lm.hf)
    with pytest.raises(MisfitError, match=r"no module 'model\.layers\.3'"):
        runner.check(on_vllm.hookpoint)


def test_what_cannot_be_meant(sae: SAE[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="its own matter"):
        attach(sae, engine="vllm", device="cpu")
    with pytest.raises(UsageError, match="vLLM loads its own"):
        attach(sae, oracle.fresh_model(), engine="vllm")
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    with pytest.raises(ResourceError, match="vLLM is not installed") as told:
        attach(sae, engine="vllm")
    assert "pip install vllm" in told.value.fix
