"""Suites: a paper's comparison, trained over seeds, as a table with intervals and a verdict on each claim."""

from hsae_hub.suites.running import Planned as Planned
from hsae_hub.suites.running import plan_suite as plan_suite
from hsae_hub.suites.running import run_suite as run_suite
from hsae_hub.suites.running import with_seeds as with_seeds
from hsae_hub.suites.schema import LoadedSuite as LoadedSuite
from hsae_hub.suites.schema import Suite as Suite
from hsae_hub.suites.schema import load_suite as load_suite
from hsae_hub.suites.summary import Results as Results
from hsae_hub.suites.summary import markdown as markdown
from hsae_hub.suites.summary import summarise as summarise
