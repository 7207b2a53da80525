"""The report of a splice against its definitions."""

import json
import math
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import Change
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, SpliceReport, attach, batches
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

TEXTS = [
    "The history of the town began in 1871, when the first railway was opened.",
    "Rain fell on the hills and the river rose.",
    "It was a small village at the time of the war, and it has remained one since.",
]


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    return oracle.saved_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return oracle.fresh_model()


@pytest.fixture(scope="module")
def lm(sae: SAE[Any]) -> Attached:
    return attach(sae, oracle.fresh_model())


@torch.no_grad()
def expected(
    plain: LanguageModel, sae: SAE[Any], texts: list[str], spliced: list[Change]
) -> dict[str, float]:
    """From the definitions, text by text, in float64."""
    rows = [torch.tensor([plain.tokenizer(text)["input_ids"]]) for text in texts]

    def run(changes: list[Change]) -> tuple[list[Tensor], list[Tensor]]:
        residuals: list[Tensor] = []
        handle = plain.hf.model.layers[oracle.LAYER].register_forward_hook(
            lambda _m, _a, out: residuals.append(out[0, 1:])
        )
        logits = []
        for ids in rows:
            with oracle.hooked(plain, changes):
                logits.append(plain.hf(input_ids=ids).logits[0, 1:-1])  # BOS predicts nothing
        handle.remove()
        return [each.float().log_softmax(-1).double() for each in logits], residuals

    targets = torch.cat([ids[0, 2:] for ids in rows])

    def ce(logs: list[Tensor]) -> float:
        return float(-torch.cat(logs).gather(-1, targets[:, None]).mean())

    clean, residuals = run([])
    x = torch.cat(residuals)
    acts = sae.encode(x)
    x_hat, x64 = sae.decode(acts).double(), x.double()
    with_splice, _ = run(spliced)
    zero, _ = run([lambda h: torch.zeros_like(h)])
    mean, _ = run([lambda h: x64.mean(0).float().expand_as(h)])
    p, q = torch.cat(clean), torch.cat(with_splice)
    dense = acts.dense()
    n = sae.shape.n_parents
    return {
        "tokens": len(x),
        "predictions": len(targets),
        "ce_clean": ce(clean),
        "ce_spliced": ce(with_splice),
        "ce_zero": ce(zero),
        "ce_mean": ce(mean),
        "ce_score": (ce(zero) - ce(with_splice)) / (ce(zero) - ce(clean)),
        "kl": float((p.exp() * (p - q)).sum(-1).mean()),
        "explained_variance": float(
            1 - (x64 - x_hat).square().sum() / (x64 - x64.mean(0)).square().sum()
        ),
        "l0": float((dense != 0).sum(-1).double().mean()),
        "l0_parents": float((dense[:, :n] != 0).sum(-1).double().mean()),
        "l0_children": float((dense[:, n:] != 0).sum(-1).double().mean()),
    }


def assert_report(report: SpliceReport, wanted: dict[str, float], **skip: Any) -> None:
    for name, value in wanted.items():
        assert getattr(report, name) == pytest.approx(value, abs=2e-5, rel=2e-5), name


def test_the_report_is_what_its_definitions_give(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    with lm.splice() as s:
        assert_report(s.loss(TEXTS), expected(plain, sae, TEXTS, [oracle.splice(sae)]))


def test_batches_change_nothing(lm: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    with lm.splice() as s:
        together = s.loss(TEXTS)
        monkeypatch.setattr(batches, "LOGITS_LIMIT", 1)
        alone = s.loss(TEXTS)
    assert together.numbers() == pytest.approx(alone.numbers(), rel=1e-5, abs=1e-5)
    for name, bounds in together.intervals.items():
        assert bounds == pytest.approx(alone.intervals[name], rel=1e-5, abs=1e-5)


def test_windows_of_tokens_are_read_as_they_are(lm: Attached) -> None:
    rows = [lm.lm.tokenizer(text)["input_ids"][:9] for text in TEXTS]
    texts = [lm.lm.tokenizer.decode(row[1:]) for row in rows]
    with lm.splice() as s:
        wanted = s.loss(texts).to_dict()
        assert s.loss(torch.tensor(rows)).to_dict() == wanted
        assert s.loss([torch.tensor(row) for row in rows]).to_dict() == wanted
        with pytest.raises(UsageError, match="window 0 has 1200 tokens"):
            s.loss(torch.full((1, 1200), 50))


def test_special_tokens_are_counted_nowhere(lm: Attached) -> None:
    ids = torch.tensor([[2, 50, 60, 1, 70, 80, 0, 90]])  # BOS, EOS and padding among the text
    with lm.splice() as s:
        report = s.loss(ids)
    assert (report.tokens, report.predictions) == (5, 2)


def test_with_its_error_a_splice_costs_nothing(lm: Attached) -> None:
    with lm.splice(error_term=True) as s:
        report = s.loss(TEXTS)
    assert report.ce_spliced == pytest.approx(report.ce_clean, abs=1e-5)
    assert report.kl == pytest.approx(0, abs=1e-6) and report.ce_score == pytest.approx(1, abs=1e-4)
    assert report.explained_variance < 0.9  # that of the SAE, error or not


def test_other_blocks_are_part_of_what_is_measured(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    edits = {"12/3": 1.0, "5": 0.0}
    wanted = expected(plain, sae, TEXTS, [oracle.splice(sae), oracle.steer(sae, edits)])
    with lm.splice() as s:
        alone = s.loss(TEXTS)
        with lm.steer(edits):
            steered = s.loss(TEXTS)
    for name in ("ce_clean", "ce_spliced", "kl"):
        assert getattr(steered, name) == pytest.approx(wanted[name], abs=2e-5)
    assert steered.ce_clean == alone.ce_clean and steered.ce_spliced != alone.ce_spliced


def test_a_flat_sae_has_no_children_to_count(plain: LanguageModel) -> None:
    flat = build(oracle.TOPK, seed=0)
    lm = attach(flat, oracle.fresh_model(), hookpoint="3")
    with lm.splice() as s:
        report = s.loss(TEXTS)
    wanted = expected(plain, flat, TEXTS, [lambda h: flat(h).sae_out])
    assert report.l0_parents is None and report.l0_children is None
    assert_report(
        report, {k: v for k, v in wanted.items() if k not in ("l0_parents", "l0_children")}
    )


def test_a_report_is_shown_and_stored(lm: Attached) -> None:
    with lm.splice() as s:
        report = s.loss(TEXTS[0])
    assert json.loads(json.dumps(report.to_dict()))["ce_clean"] == report.ce_clean
    assert f"ce_clean             {report.ce_clean:.4f}" in str(report)
    assert str(report).startswith(
        f"{report.tokens} tokens, {report.predictions} predictions in 1 sequences\n"
    )
    assert not math.isnan(report.ce_score)


@pytest.mark.parametrize("texts", [[], [""], ["."], torch.zeros(2, 5).long()])
def test_too_little_text_is_refused(texts: Any, lm: Attached) -> None:
    with lm.splice() as s, pytest.raises(UsageError):
        s.loss(texts)


def test_loss_belongs_inside_its_block(lm: Attached) -> None:
    with lm.splice() as s:
        pass
    with pytest.raises(UsageError, match="inside its own"):
        s.loss(TEXTS)


def test_progress_counts_every_forward_to_its_end(lm: Attached) -> None:
    told: list[tuple[int, int]] = []
    with lm.splice() as spliced:
        spliced.loss(TEXTS, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12) and told == sorted(told)
