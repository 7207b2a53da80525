import json
import re

import pytest

from hsae_hub.cli.common import size_text
from hsae_hub.cli.main import run
from hsae_hub.recipes import find_recipe, list_recipes, load_recipe

TINY = "gemma2-tiny-en/l3_hsae"


def succeed(capsys, *args):
    assert run(list(args)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_ls(capsys):
    out = succeed(capsys, "recipes", "ls")
    assert all(f"  {name.partition('/')[2]}  " in out for name in list_recipes())
    assert max(map(len, out.splitlines())) <= 110
    models = [line for line in out.splitlines() if line.endswith("/")]
    assert models == ["gemma2-tiny-en/", "gemma-2-2b/"]
    assert out.index("  l5_hsae") < out.index("  l12_hsae") < out.index("  l20_hsae-8kx16")
    assert succeed(capsys, "recipes", "ls", "-q").split() == list_recipes()
    listed = json.loads(succeed(capsys, "recipes", "ls", "--json"))
    assert listed["schema"] == "hsae.recipes_ls/1"
    assert [recipe["name"] for recipe in listed["recipes"]] == list_recipes()


def test_ls_of_some(capsys):
    of_model = succeed(capsys, "recipes", "ls", "gemma-2-2b", "-q").split()
    assert of_model == [name for name in list_recipes() if name.startswith("gemma-2-2b/")]
    assert succeed(capsys, "recipes", "ls", "l20_hsae-16kx16", "-q").split() == [
        "gemma-2-2b/l20_hsae-16kx16"
    ]
    assert run(["recipes", "ls", "no-such"]) == 3
    assert "'no-such'" in capsys.readouterr().err


def test_show_prints_the_file_or_what_would_be_run(capsys, tmp_path):
    assert succeed(capsys, "recipes", "show", TINY).startswith("# H-SAE")
    (tmp_path / "r.yaml").write_text(succeed(capsys, "recipes", "show", TINY, "--set", "seed=7"))
    assert load_recipe(tmp_path / "r.yaml").recipe.seed == 7
    shown = json.loads(succeed(capsys, "recipes", "show", TINY, "--json"))
    assert shown["recipe"]["sae"]["architecture"] == "hsae"


def test_cp_makes_it_yours_once(capsys, tmp_path):
    path = succeed(capsys, "recipes", "cp", TINY, str(tmp_path), "-q").strip()
    assert load_recipe(path).recipe == load_recipe(TINY).recipe
    assert run(["recipes", "cp", TINY, str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    succeed(capsys, "recipes", "cp", TINY, str(tmp_path), "--force")


@pytest.mark.parametrize("name", list_recipes())
def test_check_counts_every_shipped_recipe_as_its_header_says(name, capsys):
    found = json.loads(succeed(capsys, "recipes", "check", name, "--json"))
    recipe = load_recipe(name).recipe
    assert found["saes"].keys() == recipe.saes().keys()
    for key, sae in found["saes"].items():
        assert sae["d_sae"] == recipe.saes()[key].shape().d_sae
        assert sae["architecture"] == recipe.saes()[key].architecture
        assert sae["weights_bytes"] == 4 * sae["parameters"] > 0
    assert found["tokens"] == found["steps"] * recipe.train.batch_size

    needs = " ".join(find_recipe(name).text().partition("# Needs: ")[2].split("\n# ", 2)[:2])
    told = re.findall(r"([\d.]+) GB (?:by|of memory|of disk)", needs)
    memory, disk = (float(number) for number in told)
    assert memory == pytest.approx(found["memory_bytes"] / 1e9, rel=0.06, abs=0.06)
    assert disk == pytest.approx(found["disk_bytes"] / 1e9, rel=0.06, abs=0.06)
    if name.startswith(
        "gemma-2-2b/"
    ):  # 5.2 GB of weights, and what reading a batch of contexts takes
        gpu = re.search(r"a GPU with (\d+) GB", needs)
        assert gpu and int(gpu[1]) >= memory + 7


@pytest.mark.parametrize("name", ["gemma2-tiny-en/l3_hsae", "gemma-2-2b/l20_gated"])
def test_check_says_what_it_counted(name, capsys):
    found = json.loads(succeed(capsys, "recipes", "check", name, "--json"))
    said = succeed(capsys, "recipes", "check", name)
    assert f"{name} can be run" in said
    for size in ("memory_bytes", "disk_bytes", "checkpoint_bytes", "saved_bytes", "buffer_bytes"):
        assert size_text(found[size]) in said


@pytest.mark.parametrize("name", ["gemma2-tiny-en/l3_hsae", "gemma-2-2b/l20_hsae-16kx16"])
def test_check_counts_a_tree_and_its_baseline(name, capsys):
    found = json.loads(succeed(capsys, "recipes", "check", name, "--json"))
    recipe = load_recipe(name).recipe
    config = recipe.sae
    d, n, m, s = config.d_in, config.n_parents, config.n_children, config.d_subspace
    assert found["saes"]["sae"]["parameters"] == 2 * n * d + 2 * n * s * d + 2 * n * m * s
    assert found["saes"]["baseline"]["weights_bytes"] == 4 * 2 * d * recipe.baseline.d_sae


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["hookpoint=not a place"], 2, "names no place in a language model"),
        (["hookpoint=model.layers.9"], 5, "no layer 9"),
        (["sae.d_in=128", "baseline=null"], 5, "has width 256"),
        (["sae.k=0"], 2, "sae.k"),
    ],
)
def test_check_finds_what_would_fail(changes, code, message, capsys):
    args = [word for change in changes for word in ("--set", change)]
    assert run(["recipes", "check", TINY, *args]) == code
    assert message in capsys.readouterr().err
