"""A planted hierarchy: activations whose parents and children are known, and how much of it SAEs find.

    python tests/planted.py --seeds 5      # the table of train/RESULTS.md

A token is the sum of `ACTIVE` of the parents, each with exactly one of its own children. `hsae` shows its tree; a flat
TopK has as many latents as the truth has parents and children and as many acts a token, and its decoder rows are
clustered. Both trees are then held against the truth by one measure, `score`.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.metrics import ReconstructionStats
from hsae_hub.recipes import TrainSection
from hsae_hub.suites.summary import estimate
from hsae_hub.training.optim import adam, clip_gradient, learning_rate

D_IN, PARENTS, CHILDREN, SUBSPACE, ACTIVE = 128, 16, 4, 4, 4
HELD_OUT = 8000
"""Tokens that a tree is judged on."""
SAME = 0.9
"""Cosine from which a learned parent has a true one's direction."""
PURE = 0.9
"""Share of its acts with which a learned child has to fall on one true child."""
COVERED = 0.8
"""Share of a true child's tokens on which learned ones have to act."""
STEPS = 3000
SIZE = {"d_in": D_IN, "normalize": "unit_norm"}
TREE = {
    **SIZE,
    "architecture": "hsae",
    "n_parents": PARENTS,
    "n_children": 2 * CHILDREN,
    "d_subspace": SUBSPACE,
    "k": ACTIVE,
    "beta": 3.0,
    "penalty_warmup_steps": 100,
}
FLAT = {
    **SIZE,
    "architecture": "topk",
    "d_sae": PARENTS * (1 + CHILDREN),
    "k": 2 * ACTIVE,
}


class Tokens(NamedTuple):
    """Activations and what they are made of."""

    x: Tensor
    """`[tokens, d_in]`."""
    parents: Tensor
    """`[tokens, PARENTS]`: which are active."""
    children: Tensor
    """`[tokens, PARENTS · CHILDREN]`, child `c` of parent `j` at `j · CHILDREN + c`."""


class World:
    """Random unit parents; under each, orthonormal children in a random subspace of its own.

    In 128 dimensions two of these directions have a cosine of about 0.09, so they are nearly orthogonal.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.parents = unit(self._normal(PARENTS, D_IN))
        subspaces = torch.linalg.qr(self._normal(PARENTS, D_IN, SUBSPACE)).Q.mT
        within = torch.linalg.qr(self._normal(PARENTS, SUBSPACE, SUBSPACE)).Q[:, :CHILDREN]
        self.children = (within @ subspaces).flatten(0, 1)

    def draw(self, tokens: int) -> Tokens:
        """A parent's magnitude is uniform in [0.5, 1.5], its child's in [0.5, 1]; all choices are uniform."""
        parents = self._uniform(tokens, PARENTS).topk(ACTIVE).indices
        rows = parents * CHILDREN + (CHILDREN * self._uniform(tokens, ACTIVE)).long()
        strength = 0.5 + self._uniform(tokens, ACTIVE, 1)
        child_strength = 0.5 + 0.5 * self._uniform(tokens, ACTIVE, 1)
        x = strength * self.parents[parents] + child_strength * self.children[rows]
        none = torch.zeros(tokens, PARENTS * (1 + CHILDREN), dtype=torch.bool)
        active = none.scatter(1, torch.cat([parents, PARENTS + rows], 1), True)
        return Tokens(x.sum(1), *active.split([PARENTS, PARENTS * CHILDREN], 1))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)


class Tree(NamedTuple):
    """What an SAE makes of tokens, as a hierarchy; latents that never act are left out."""

    directions: Tensor
    """`[parents, d_in]`, unit."""
    fires: Tensor
    """`[tokens, children]`."""
    parent_of: Tensor
    """`[children]`."""


class Score(NamedTuple):
    """Shares, 0 to 1."""

    explained_variance: float
    parent_precision: float
    """Learned parents that have a true one's direction, each its own."""
    parent_recall: float
    child_precision: float
    """Learned children that stand for a true child of the true parent that their parent has the direction of."""
    child_recall: float
    """True children that some learned ones stand for, under their parent."""


def unit(rows: Tensor) -> Tensor:
    """Each row divided by its norm."""
    return rows / rows.norm(dim=-1, keepdim=True)


def train(config: dict[str, Any], world: World, seed: int, *, steps: int = STEPS) -> SAE[Any]:
    """Trains as `hsae train` does, on batches of 256 fresh tokens."""
    sae = build(config, seed=seed)
    section = TrainSection(steps=steps, batch_size=256, lr=5e-3, warmup_steps=100)
    optimizer = adam(sae, section)
    for i in range(steps):
        optimizer.zero_grad()
        step = TrainStep(i, steps)
        torch.autograd.backward(sae.losses(world.draw(section.batch_size).x, step)["loss"])
        sae.before_update()
        clip_gradient(sae, section.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(i, section)
        optimizer.step()
        sae.after_update(step, optimizer)
    return sae


def tree_of_hsae(sae: SAE[Any], x: Tensor) -> Tree:
    """The tree that `hsae` has."""
    n, m = sae.shape
    fires = sae.encode(x).dense() > 0
    parents = fires[:, :n].any(0).nonzero()[:, 0]
    renumbered = torch.full((n,), -1).scatter(0, parents, torch.arange(len(parents)))
    alive = fires[:, n:].any(0).nonzero()[:, 0]
    return Tree(sae.decoder_rows(parents), fires[:, n + alive], renumbered[alive // m])


def tree_of_clusters(sae: SAE[Any], x: Tensor) -> Tree:
    """Decoder rows in `PARENTS` clusters: of each the member that acts most often is the parent of the others."""
    fires = sae.encode(x).dense() > 0
    alive = fires.any(0).nonzero()[:, 0]
    fires, rows = fires[:, alive], unit(sae.decoder_rows(alive))
    cluster = linkage(rows, PARENTS)
    often = torch.where(cluster == torch.arange(PARENTS)[:, None], fires.sum(0), -1)
    heads = often.argmax(1)
    children = torch.ones(len(rows), dtype=torch.bool).scatter(0, heads, False)
    return Tree(rows[heads], fires[:, children], cluster[children])


def linkage(rows: Tensor, clusters: int) -> Tensor:
    """Agglomerative clustering by the mean cosine between members (average linkage); the cluster of each row."""
    cluster = torch.arange(len(rows))
    for _ in range(len(rows) - clusters):
        member = torch.nn.functional.one_hot(cluster, int(cluster.max()) + 1).to(rows)
        sums = unit_sums = member.T @ rows
        sizes = member.sum(0)
        means = (unit_sums @ sums.T) / (sizes[:, None] * sizes)
        i, j = divmod(
            int(means.tril(-1).add(torch.full_like(means, -9).triu()).argmax()), len(means)
        )
        cluster[cluster == i] = j
        cluster[cluster > i] -= 1
    return cluster


def score(world: World, sae: SAE[Any], read: Callable[[SAE[Any], Tensor], Tree]) -> Score:
    """Holds a learned tree against the true one, on tokens that were not trained on.

    Parents are matched one to one by the cosine of their directions (Hungarian method), from `SAME` on. Children are
    matched by when they act, which asks nothing of how an SAE divides a token between parent and child: one stands for
    the true child that `PURE` of its acts fall on, if that is a child of the parent that its own parent is matched
    with; and a true child is found if those that stand for it act on `COVERED` of its tokens. So two that share a true
    child, by strength say, are both right. Children with a tenth of the acts of a true child, or fewer, are left out.
    """
    tokens = world.draw(HELD_OUT)
    tree = read(sae, tokens.x)
    cosines = tree.directions @ world.parents.T
    pairs = zip(*linear_sum_assignment(cosines, maximize=True), strict=True)
    matched = {int(i): int(j) for i, j in pairs if cosines[i, j] > SAME}

    counts = tree.fires.sum(0)
    common = counts >= 0.1 * HELD_OUT * ACTIVE / (PARENTS * CHILDREN)
    shares = (tree.fires.T.float() @ tokens.children.float()) / counts[:, None]
    stands_for = torch.full((len(counts),), -1)
    for child, parent in enumerate(tree.parent_of.tolist()):
        if common[child] and parent in matched:
            own = shares[child, matched[parent] * CHILDREN :][:CHILDREN]
            if own.max() >= PURE:
                stands_for[child] = matched[parent] * CHILDREN + int(own.argmax())
    found = 0
    for true in range(PARENTS * CHILDREN):
        told = tree.fires[:, stands_for == true].any(1) & tokens.children[:, true]
        found += int(told.sum() >= COVERED * tokens.children[:, true].sum())

    stats = ReconstructionStats(D_IN)
    stats.update(tokens.x, sae(tokens.x).sae_out)
    return Score(
        stats.explained_variance(),
        len(matched) / len(tree.directions),
        len(matched) / PARENTS,
        int((stands_for >= 0).sum()) / int(common.sum()),
        found / (PARENTS * CHILDREN),
    )


ROWS: dict[str, tuple[dict[str, Any], Callable[[SAE[Any], Tensor], Tree]]] = {
    f"`hsae`, {PARENTS} x {2 * CHILDREN}, β = 3": (TREE, tree_of_hsae),
    f"`hsae`, {PARENTS} x {CHILDREN}, β = 3": (TREE | {"n_children": CHILDREN}, tree_of_hsae),
    f"`hsae`, {PARENTS} x {2 * CHILDREN}, β = 0.1": (TREE | {"beta": 0.1}, tree_of_hsae),
    f"`topk`, {PARENTS * (1 + CHILDREN)}, clustered": (FLAT, tree_of_clusters),
}


def table(seeds: int) -> Iterator[str]:
    """Lines of Markdown: mean ± half of the 95 % interval (Student t) over seeds of data and weights."""
    titles = [name.replace("_", " ") for name in Score._fields]
    yield f"| | {' | '.join(titles)} |"
    yield "|---|" + "---:|" * len(titles)
    for name, (config, read) in ROWS.items():
        scores = []
        for seed in range(seeds):
            with torch.no_grad():
                world = World(seed)
            sae = train(config, world, seed).requires_grad_(False)
            scores.append(score(world, sae, read))
        found = [estimate(values) for values in zip(*scores, strict=True)]
        cells = [f"{e.mean:.3f} ± {e.half_width or 0:.3f}" for e in found]
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, at least 2")
    for line in table(parser.parse_args().seeds):
        print(line, flush=True)
