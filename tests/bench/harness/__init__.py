"""What every benchmark shares: ways that take turns, ratios with their spread, memory, peers, the report."""

from harness.findings import Findings as Findings
from harness.findings import Ratio as Ratio
from harness.findings import Reading as Reading
from harness.findings import Slope as Slope
from harness.findings import Spread as Spread
from harness.findings import spread as spread
from harness.part import Scale as Scale
from harness.part import run_part as run_part
from harness.timing import Took as Took
from harness.timing import Way as Way
from harness.timing import interleaved as interleaved
from harness.timing import repeated as repeated
from harness.timing import timed as timed
