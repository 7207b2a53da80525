"""A planted hierarchy is recovered, and clustering a flat SAE's decoder rows does not recover it."""

import pytest
import torch
from planted import (
    CHILDREN,
    FLAT,
    PARENTS,
    TREE,
    Tree,
    World,
    score,
    train,
    tree_of_clusters,
    tree_of_hsae,
    unit,
)


def found(config, read, seed):
    with torch.no_grad():
        world = World(seed)
    return score(world, train(config, world, seed, steps=2000).requires_grad_(False), read)


def test_hsae_finds_the_parents_and_puts_the_children_under_them():
    tree = found(TREE, tree_of_hsae, seed=1)
    assert tree.parent_precision >= 0.9 and tree.parent_recall >= 0.9
    assert tree.child_precision >= 0.85 and tree.child_recall >= 0.85
    flat = found(FLAT, tree_of_clusters, seed=1)
    assert flat.explained_variance > 0.9, "it has learned the tokens"
    assert flat.parent_recall < 0.5 and flat.child_recall < 0.2


class Known(torch.nn.Module):
    """Stands for an SAE whose tree is given."""

    def forward(self, x):
        return type("Output", (), {"sae_out": 0.9 * x})


@pytest.mark.parametrize("wrong", [0, 3])
def test_the_measure_is_full_for_the_truth_and_falls_with_wrong_children(wrong):
    with torch.no_grad():
        world = World(0)

    def read(sae, x):
        again = World(0).draw(len(x))
        assert torch.equal(again.x, x)
        parent_of = torch.arange(PARENTS * CHILDREN) // CHILDREN
        parent_of[:wrong] = PARENTS - 1  # hung under somebody else's parent
        return Tree(unit(world.parents), again.children, parent_of)

    result = score(world, Known(), read)
    right = 1 - wrong / (PARENTS * CHILDREN)
    assert result.parent_precision == result.parent_recall == 1
    assert result.child_precision == result.child_recall == pytest.approx(right)
