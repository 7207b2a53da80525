"""What an SAE is worth, in numbers, on text it has not seen."""

from hsae_hub.evaluation.bench import Bench as Bench
from hsae_hub.evaluation.core import CORE_FILE as CORE_FILE
from hsae_hub.evaluation.core import CoreReport as CoreReport
from hsae_hub.evaluation.core import evaluate as evaluate
from hsae_hub.evaluation.core import measure_core as measure_core
from hsae_hub.evaluation.report import Report as Report
from hsae_hub.evaluation.report import Result as Result
