"""Loads what cannot be loaded after nnsight.

nnsight gives every object a method `save`, and a class of anyio's, on which Python's web servers stand, refuses to be
made when it finds that. Whoever loads nnsight first gets that error from their server, not from this package.
"""

from contextlib import suppress

with suppress(ImportError, TypeError):
    from anyio.abc import SocketAttribute as SocketAttribute
