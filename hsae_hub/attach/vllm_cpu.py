"""nnsight's engine for vLLM on vLLM's builds for CPUs: as released, it only knows the worker of the builds for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from nnsight.modeling.vllm import VLLM
from nnsight.modeling.vllm.model_runners.GPUModelRunner import NNsightGPUModelRunner
from nnsight.modeling.vllm.workers.GPUWorker import NNsightGPUWorker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker


class NNsightCPUModelRunner(NNsightGPUModelRunner, CPUModelRunner):  # type: ignore[misc]  # foreign, without types
    """nnsight's interventions around vLLM's runner for CPUs, which itself is one for GPUs with some steps replaced."""


class NNsightCPUWorker(NNsightGPUWorker, CPUWorker):  # type: ignore[misc]  # foreign, without types
    """nnsight's worker around vLLM's for CPUs; vLLM makes it, by its name."""

    def init_device(self) -> None:
        """Sets up the CPU, and gives the runner that vLLM made to nnsight.

        Raises:
            NotImplementedError: vLLM chose another runner.
        """
        CPUWorker.init_device(self)  # nnsight's own turns every runner down but the one for GPUs
        if type(self.model_runner) is not CPUModelRunner:
            raise NotImplementedError(f"no interventions in a {type(self.model_runner).__name__}")
        self.model_runner.__class__ = NNsightCPUModelRunner


class CPUVLLM(VLLM):  # type: ignore[misc]  # foreign, without types
    """nnsight's `VLLM` model on a CPU."""

    _WORKER_CLS = f"{NNsightCPUWorker.__module__}.{NNsightCPUWorker.__qualname__}"

    @staticmethod
    @contextmanager
    def _meta_device() -> Iterator[Any]:
        # where there is no accelerator torch raises at what vLLM's loader ends with
        with VLLM._meta_device(), mock.patch("torch.accelerator.empty_cache"):
            yield
