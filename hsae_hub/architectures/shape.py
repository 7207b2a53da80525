"""How latents are named."""

from __future__ import annotations

from typing import NamedTuple

from hsae_hub.errors import NotFoundError


class TreeShape(NamedTuple):
    """How the latents of an SAE are named: `n_parents` parents, each with `n_children` (0 for a flat SAE).

    The flat view orders them [parents | children]; child `c` of parent `j` is latent `n_parents + j·n_children + c` and
    is written `j/c`.
    """

    n_parents: int
    n_children: int

    @property
    def d_sae(self) -> int:
        """Number of latents, parents and children together."""
        return self.n_parents * (1 + self.n_children)

    def name(self, index: int) -> str:
        """`4121` for a parent, `4121/3` for a child, from the flat index."""
        if index < self.n_parents:
            return str(index)
        parent, child = divmod(index - self.n_parents, self.n_children)
        return f"{parent}/{child}"

    def child(self, parent: int, child: int) -> int:
        """Flat index of a child."""
        return self.n_parents + parent * self.n_children + child

    def parent_of(self, index: int) -> int | None:
        """Flat index of a child's parent; None for a parent."""
        return None if index < self.n_parents else (index - self.n_parents) // self.n_children

    def index_of(self, name: str | int) -> int:
        """Flat index of `4121`, `4121/3`, or of a flat index given as a number.

        Raises:
            NotFoundError: there is no such latent.
        """
        parent, slash, child = str(name).strip().partition("/")
        if parent.isdecimal() and not slash and int(parent) < self.d_sae:
            return int(parent)
        if parent.isdecimal() and child.isdecimal():
            if int(parent) < self.n_parents and int(child) < self.n_children:
                return self.child(int(parent), int(child))
        known, fix = f"latents 0 to {self.d_sae - 1}", "write a latent as 4121"
        if self.n_children:
            known = (
                f"parents 0 to {self.n_parents - 1}, of each children 0 to {self.n_children - 1}"
            )
            fix = "write a parent as 4121 and its child as 4121/3"
        raise NotFoundError(f"no latent {name!r} in this SAE; it has {known}", fix=fix)
