"""Registers our architectures with SAELens 6: after this import `sae_lens.SAE.load_from_disk` reads what
`hsae export REF sae-lens DIR` wrote, also of an SAE that is none of SAELens' own kinds, with the exact forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hsae_hub.architectures import SAE, SAEConfig, architecture, build, parse_config
from hsae_hub.errors import CorruptError, ResourceError
from hsae_hub.interop.dense import DenseSAE
from hsae_hub.interop.sae_lens_export import PLUGIN

if find_spec("sae_lens") is None:
    raise ResourceError("hsae_hub.interop.sae_lens needs sae-lens", fix="pip install 'sae-lens>=6'")

import sae_lens
from sae_lens.registry import register_sae_class


def _meta(config: SAEConfig) -> SAE[Any]:
    with torch.device("meta"):
        return architecture(config.architecture)(config)


@dataclass
class HSAEHubConfig(sae_lens.SAEConfig):  # type: ignore[misc]  # SAELens is not there when types are checked
    """SAELens' own keys, and our config."""

    hsae_hub: dict[str, Any] = field(default_factory=dict)
    """Of the SAE, as in our `config.json`."""

    @classmethod
    def architecture(cls) -> str:
        return PLUGIN


class HSAEHubSAE(sae_lens.SAE):  # type: ignore[misc]
    """One of our SAEs in SAELens: parents and children side by side, in the order of the flat view.

    Acts are in units of raw activations. Unlike SAELens' own, it decodes the same tokens any number of times. Folding
    norms takes effect until it is saved.
    """

    cfg: HSAEHubConfig
    dense: DenseSAE

    def initialize_weights(self) -> None:
        """Random weights, or none on the meta device, where SAELens makes an SAE that it is about to load."""
        config = parse_config(self.cfg.hsae_hub)
        sae = _meta(config) if self.device.type == "meta" else build(config)
        if (sae.d_in, sae.d_sae) != (self.cfg.d_in, self.cfg.d_sae):
            raise CorruptError(
                f"cfg.json says d_in {self.cfg.d_in} and d_sae {self.cfg.d_sae}, "
                f"but its {PLUGIN} gives {sae.d_in} and {sae.d_sae}"
            )
        self.dense = DenseSAE(sae.to(self.device, self.dtype))

    def encode(self, x: Tensor) -> Tensor:
        """Dense acts `[..., d_sae]`."""
        sae_in = self.hook_sae_input(self.reshape_fn_in(x.to(self.dtype)))
        return self.hook_sae_acts_post(self.dense.encode(sae_in))  # type: ignore[no-any-return]

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Raw activations from dense acts."""
        recons = self.hook_sae_recons(self.dense.decode(feature_acts))
        return self.reshape_fn_out(recons, self.d_head)  # type: ignore[no-any-return]

    @property
    def W_enc(self) -> Tensor:
        """As `DenseSAE.W_enc`; a copy, made when it is first asked for."""
        return self.dense.W_enc

    @property
    def W_dec(self) -> Tensor:
        """As `DenseSAE.W_dec`; a copy, made when it is first asked for."""
        return self.dense.W_dec

    @property
    def b_dec(self) -> Tensor:
        """As `DenseSAE.b_dec`."""
        return self.dense.b_dec

    def fold_and_get_W_dec_norm(self) -> Tensor:
        """Decoder rows get norm 1, and acts take it over; the norms that they had."""
        norms = self.get_W_dec_norm()
        self.dense.fold_norms()
        return norms  # type: ignore[no-any-return]

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Refused: normalisation is part of the SAE."""
        raise NotImplementedError("an SAE of hsae-hub normalises its tokens itself")

    def fold_activation_whitening(self, *matrices: Tensor) -> None:
        """Refused: normalisation is part of the SAE."""
        raise NotImplementedError("an SAE of hsae-hub normalises its tokens itself")

    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        """From names and shapes on disk, which are those of our own files, to those of the module."""
        some = next(iter(state_dict.values()), torch.empty(0))
        sae = _meta(self.dense.sae.config).to(some.dtype).to_empty(device=some.device)
        sae.reset_counters()
        weights = sae.weights()
        if unlike := sorted(weights.keys() ^ state_dict.keys()):
            raise CorruptError(f"the weights lack {unlike[0]}, or have it and should not")
        for name, tensor in weights.items():
            if tensor.shape != state_dict[name].shape:
                given = list(state_dict[name].shape)
                raise CorruptError(f"{name} has shape {given}, expected {list(tensor.shape)}")
            tensor.copy_(state_dict[name])
        state_dict.clear()
        state_dict |= {f"dense.sae.{name}": t for name, t in sae.state_dict().items()}

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        """Back to names and shapes on disk."""
        state_dict.clear()
        state_dict |= {name: t.contiguous() for name, t in self.dense.sae.weights().items()}


register_sae_class(PLUGIN, HSAEHubSAE, HSAEHubConfig)
