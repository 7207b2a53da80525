"""The recipes in the package: their form, and their numbers against those of their papers."""

from itertools import takewhile

import pytest

from hsae_hub.recipes import dump_recipe, find_recipe, list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_parses_and_survives_a_dump(name, tmp_path):
    loaded = load_recipe(name)
    assert loaded.name == name
    (tmp_path / "r.yaml").write_text(dump_recipe(loaded.recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml").recipe == loaded.recipe


@pytest.mark.parametrize("name", list_recipes())
def test_the_header_of_a_shipped_recipe(name):
    lines = find_recipe(name).text().splitlines()
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    assert head[0].endswith(".") and len(find_recipe(name).summary()) <= 80
    device = " --device cuda" if name.startswith("gemma-2-2b/") else ""
    assert f"#   hsae train {name}{device}" in head
    assert sum(line.startswith("# Needs: ") for line in head) == 1
    assert max(map(len, head)) <= 120
    text = " ".join(head)
    assert any(word in text for word in ("et al.", " paper", "What l20_", "CompositionalLens")), (
        "where do its numbers come from?"
    )


@pytest.mark.parametrize("name", list_recipes())
def test_the_name_of_a_shipped_recipe_is_its_model_layer_and_architecture(name):
    model, _, rest = name.partition("/")
    layer, _, variant = rest.replace("lm_head_", "head_").partition("_")
    recipe = load_recipe(name).recipe
    assert recipe.model.id.removeprefix("google/") == model
    if layer == "head":
        assert recipe.hookpoint == "lm_head.weight"
    else:
        assert recipe.hookpoint == f"model.layers.{layer.removeprefix('l')}"
    assert variant.split("-")[0] == recipe.sae.architecture
    assert variant == variant.lower()


HSAE_SIZES = [
    *(("gemma-2-2b", "l20", f"{n // 1024}kx{m}", n, m) for n in (8192, 16384, 32768) for m in (16, 64)),
    *(("gemma-2-2b", layer, "16kx16", 16384, 16) for layer in ("l5", "l12", "l19")),
    *(("gemma2-tiny-en", "l3", f"{n}x{m}", n, m) for n in (512, 1024, 2048) for m in (16, 64)
      if (n, m) != (1024, 16)),
]  # fmt: skip


@pytest.mark.parametrize(("model", "layer", "size", "n", "m"), HSAE_SIZES)
def test_recipes_of_the_h_sae_paper(model, layer, size, n, m):
    """Section 4, figure 3 and appendix A.2 of Muchane et al. 2025."""
    recipe = load_recipe(f"{model}/{layer}_hsae-{size}").recipe
    sae, flat = recipe.sae, recipe.baseline
    assert sae.shape() == (n, m)
    assert sae.d_subspace == (4 if m == 16 else 8)
    assert (sae.normalize, sae.bias, sae.variant, sae.ortho) == (
        "unit_norm",
        False,
        "paper",
        "exact",
    )
    assert (sae.beta, sae.lambda_ortho, sae.lambda_l1) == (0.1, 0.1, 1e-3)
    assert (flat.architecture, flat.d_sae, flat.k, flat.normalize, flat.bias) == (
        "topk", n, sae.k, "unit_norm", False,
    )  # fmt: skip
    assert recipe.train.betas[0] == 0.9 and recipe.train.clip_norm == 0.75
    if model == "gemma-2-2b":
        assert (sae.d_in, sae.k, sae.penalty_warmup_steps) == (2304, 32, 1000)
        assert flat.aux_weight == pytest.approx(1 / 30, rel=2e-3)
        train = recipe.train
        assert (train.lr, train.batch_size, train.warmup_steps) == (5e-4, 32_512, 1000)
        assert train.tokens == 4 * 10**9  # 4 epochs
        assert (recipe.data.windows, recipe.data.context_length) == ("first", 257)


@pytest.mark.parametrize("layer", [5, 12, 19])
def test_recipes_of_compositional_lens(layer):
    """Sections 4.3 and 5.1 of the paper."""
    recipe = load_recipe(f"gemma-2-2b/l{layer}_compositional").recipe
    train = recipe.train
    assert recipe.hookpoint == f"model.layers.{layer}"
    assert (train.lr, train.warmup_steps, train.batch_size) == (3e-4, 1000, 4096)
    assert (train.clip_norm, train.final_lr) == (1.0, 1.0)
    assert [start * train.n_steps for start in recipe.sae.starts] == [0, 10_000]
    assert recipe.sae.lambda_composition == 0.05
    assert recipe.sae.lambda_sparsity == pytest.approx(0.04 * 2304**0.5)
    assert recipe.data.context_length == 128 and recipe.data.buffer_tokens == 2048 * 128
    assert recipe.data.batch_contexts == 32
    assert recipe.data.train[0].dataset == "Skylion007/openwebtext"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("group", {"n_groups": 5, "gamma": 1.5, "lambda_l1": 0.04, "weight_decay": 1e-4}),
        ("group-k3", {"n_groups": 3, "gamma": 1.5, "lambda_l1": 0.04}),
        ("group-k7", {"n_groups": 7, "gamma": 1.5, "lambda_l1": 0.04}),
        ("group-gamma1.25", {"n_groups": 5, "gamma": 1.25, "lambda_l1": 0.04}),
        ("group-gamma2.0", {"n_groups": 5, "gamma": 2.0, "lambda_l1": 0.04}),
        ("group-lambda0.06", {"n_groups": 5, "gamma": 1.5, "lambda_l1": 0.06}),
        ("nested", {"shared": 0.2, "lambda_shared": 0.04, "lambda_special": 0.04}),
        ("nested-shared0.1", {"shared": 0.1}),
        ("nested-shared0.3", {"shared": 0.3}),
        ("nested-shared0.5", {"shared": 0.5}),
        ("dynamic", {"target_loss": 2.5, "window": 100, "min_rate": 0.01, "merge_cosine": 0.9,
                     "merge_every": 100, "lambda_0": None, "weight_decay": 0.01, "merge": True}),
        ("dynamic-adaptive", {"adaptive": True, "track": True, "resample": True, "merge": False}),
        ("dynamic-window", {"adaptive": False, "track": True, "resample": True, "merge": False}),
        ("dynamic-resample", {"adaptive": False, "track": False, "resample": True, "merge": False}),
        ("dynamic-schedule", {"adaptive": False, "track": False, "resample": False, "merge": False,
                              "schedule": True}),
    ],
)  # fmt: skip
def test_recipes_of_layer_19_have_their_papers_numbers(name, settings):
    recipe = load_recipe(f"gemma-2-2b/l19_{name}").recipe
    assert settings.items() <= recipe.sae.model_dump().items()
    assert recipe.sae.shape() == (2304, 0)
    assert (recipe.train.lr, recipe.train.batch_size, recipe.train.n_steps) == (3e-4, 2048, 4882)
    assert recipe.data.context_length == 128 and recipe.data.buffer_tokens == 2048 * 128
