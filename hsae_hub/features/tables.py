"""What an index consists of: its files, their columns, and what these say."""

from __future__ import annotations

import pyarrow as pa

SCHEMA = "hsae.features/1"
BANDS = 5
"""Equal parts into which a latent's sampled contexts are divided by act, 1 the strongest."""

_NAMED = pa.list_(pa.struct([("feature", pa.string()), ("cosine", pa.float32())]))
_LOGITS = pa.list_(pa.struct([("token", pa.string()), ("id", pa.int32()), ("logit", pa.float32())]))
LATENTS = pa.schema(
    [
        ("latent", pa.int64()),
        ("feature", pa.string()),
        ("parent", pa.int64()),
        ("fired", pa.int64()),
        ("density", pa.float64()),
        ("share", pa.float64()),
        ("mean_act", pa.float64()),
        ("max_act", pa.float32()),
        ("p50", pa.float64()),
        ("p90", pa.float64()),
        ("p99", pa.float64()),
        ("p999", pa.float64()),
        ("max_relative", pa.float32()),
        ("first_bin", pa.int32()),
        ("histogram", pa.list_(pa.uint32())),
        ("label", pa.string()),
        (
            "tokens",
            pa.list_(
                pa.struct([("token", pa.string()), ("id", pa.int32()), ("weight", pa.float32())])
            ),
        ),
        ("top_logits", _LOGITS),
        ("bottom_logits", _LOGITS),
        ("nearest", _NAMED),
        (
            "together",
            pa.list_(
                pa.struct(
                    [
                        ("feature", pa.string()),
                        ("share", pa.float32()),
                        ("coefficient", pa.float32()),
                    ]
                )
            ),
        ),
    ]
)
CONTEXTS = pa.schema(
    [
        ("latent", pa.int64()),
        ("feature", pa.string()),
        ("band", pa.int8()),
        ("rank", pa.int16()),
        ("act", pa.float32()),
        ("context", pa.int64()),
        ("position", pa.int32()),
        ("at", pa.int16()),
        ("tokens", pa.list_(pa.string())),
        ("acts", pa.list_(pa.float32())),
    ]
)
WINDOWS = pa.schema(
    [
        ("window", pa.int64()),
        ("tokens", pa.list_(pa.string())),
        ("latents", pa.list_(pa.int64())),
        ("acts", pa.list_(pa.float32())),
    ]
)
COLUMNS: dict[str, dict[str, str]] = {
    "latents.parquet": {
        "latent": "flat index: parents first, child c of parent j is n_parents + j n_children + c",
        "feature": "its name: 4121 for a parent, 4121/3 for a child",
        "parent": "flat index of a child's parent",
        "fired": "tokens on which it was not zero",
        "density": "fired / tokens of the index",
        "share": "of a child: fired / fired of its parent, how often it is the one that is kept",
        "mean_act": "mean of its acts above zero; 0 without any",
        "max_act": "its largest act: the multiple of its decoder row that it adds",
        "p50": "median of act / norm of x over its acts above zero, at most 4.5 % off; p90, p99 and p999 likewise. "
        "p999 is the unit of steering",
        "max_relative": "largest act / norm of x",
        "first_bin": "bin i of the histogram is from 2^(i/8 - 24) to 2^((i+1)/8 - 24) of act / norm of x",
        "histogram": "tokens in the bins from first_bin on",
        "label": "words for it, from the tokens of its strongest contexts; labels.parquet goes before it",
        "tokens": "tokens on which it acts in its strongest contexts, by their share of these acts",
        "top_logits": "tokens whose logit a unit act raises most above the mean of all tokens: decoder row, scaled "
        "by the final norm's gain as for a residual of root mean square 1, times the unembedding",
        "bottom_logits": "tokens whose logit it lowers most",
        "nearest": "latents that acted, by the cosine of their decoder rows",
        "together": "of a parent: parents that act on the same tokens, in a sample of them; share of its own tokens, "
        "and tokens of both / root of the product of the tokens of each, by which they are ordered",
    },
    "contexts.parquet": {
        "latent": "flat index",
        "feature": "its name",
        "band": "0: the strongest contexts, one a context. 1 to 5: a uniform sample of all contexts in which it acts "
        "above zero, divided by act into five parts, 1 the strongest",
        "rank": "0 is the strongest of its band's list",
        "act": "act at its strongest token of the context",
        "context": "number of the context in the corpus",
        "position": "place of the token in the context, BOS included",
        "at": "place of the token in `tokens`",
        "tokens": "up to 20 tokens before it, itself, up to 11 after it; special ones left out",
        "acts": "act on each of them, other than at the token itself to three digits",
    },
    "windows.parquet": {
        "window": "number of the context in the corpus",
        "tokens": "a window around a random token of it, whatever acts there",
        "latents": "latents that act in the window",
        "acts": "largest act of each there",
    },
    "labels.parquet": {
        "feature": "name of the latent",
        "label": "words for it",
        "source": "who gave them",
        "score": "0 to 1: balanced accuracy of a judge who tells by the label where the latent acts; null if unknown",
    },
}
"""What each column of each file says; it stands in index.json."""
