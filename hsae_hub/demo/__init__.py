"""A page in the browser: a text as a tree of features, a feature's own page, steering beside the unsteered text."""

from hsae_hub.demo.serving import Site as Site
from hsae_hub.demo.serving import serve as serve
from hsae_hub.demo.shelf import Shelf as Shelf
from hsae_hub.demo.space import export_space as export_space
