"""A hub on loopback, in memory, that the real huggingface_hub client pushes to and pulls from; standard library only.

Written from what the client (2.4, hf_xet 1.8) sends and expects, the published Git LFS batch API, and the published Xet
protocol (huggingface.co/docs/xet). It models what is known of the Hub; nobody has compared it with the real one.
"""

from loopback.faults import Fault as Fault
from loopback.server import OWNER as OWNER
from loopback.server import STRANGER as STRANGER
from loopback.server import LoopbackHub as LoopbackHub
