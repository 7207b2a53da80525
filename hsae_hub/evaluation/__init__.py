"""What an SAE is worth, in numbers, on text it has not seen. Reading a report loads no torch; measuring does."""

from typing import TYPE_CHECKING

from hsae_hub.evaluation.report import CoreReport as CoreReport
from hsae_hub.evaluation.report import Report as Report
from hsae_hub.evaluation.report import Result as Result
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.evaluation.absorption import measure_absorption as measure_absorption
    from hsae_hub.evaluation.bench import Bench as Bench
    from hsae_hub.evaluation.core import evaluate as evaluate
    from hsae_hub.evaluation.core import measure_core as measure_core
    from hsae_hub.evaluation.cross_lingual import measure_cross_lingual as measure_cross_lingual
    from hsae_hub.evaluation.cross_lingual import read_parallel as read_parallel
    from hsae_hub.evaluation.labelled import read_labelled as read_labelled
    from hsae_hub.evaluation.probing import measure_probing as measure_probing
    from hsae_hub.evaluation.scr import measure_scr as measure_scr
    from hsae_hub.evaluation.tree import measure_tree as measure_tree

__getattr__ = lazily(
    __name__,
    {
        "measure_absorption": "absorption",
        "Bench": "bench",
        "evaluate": "core",
        "measure_core": "core",
        "measure_cross_lingual": "cross_lingual",
        "read_parallel": "cross_lingual",
        "read_labelled": "labelled",
        "measure_probing": "probing",
        "measure_scr": "scr",
        "measure_tree": "tree",
    },
)
