import subprocess
import sys

import pytest
from pydantic import ValidationError

from hsae_hub.architectures import config_class, list_architectures
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.problems import key_paths
from hsae_hub.recipes import (
    DataSource,
    Recipe,
    dump_recipe,
    load_recipe,
    recipe_schema,
)
from hsae_hub.recipes.text import dump, parse, scalar

GOOD = """\
hookpoint: model.layers.3
sae:
  architecture: hsae
  d_in: 256
  n_parents: 64
  n_children: 4
  d_subspace: 2
  k: 8
baseline:
  architecture: topk
  d_in: 256
  d_sae: 64
  k: 8
data:
  train:
    - text: [a.txt]
    - dataset: org/data
      split: validation
train:
  steps: 20
  batch_size: 32
  lr: 5e-4
  warmup_steps: 5
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="r.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def problems(ref, *overrides):
    with pytest.raises(UsageError) as caught:
        load_recipe(ref, overrides=overrides)
    assert caught.value.code == 2
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4), ("1e9", 10**9), ("1.5", 1.5), ("-.5", -0.5), ("1k", 1000), ("10M", 10**7),
        ("1.5M", 1_500_000), ("2B", 2 * 10**9), ("1_000", 1000), ("0", 0), ("-3", -3),
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("y", "y"), ("true", True), ("false", False),
        ("010", "010"), ("1:30", "1:30"), ("2023-11-01", "2023-11-01"), ("0x10", "0x10"),
        (".inf", ".inf"), (".nan", ".nan"), ("1e999", "1e999"), ("null", None), ("~", None),
        ("", None), ("k", "k"), ("20231101.en", "20231101.en"),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_it_looks_like(text, value):
    got = scalar(text)
    assert got == value and type(got) is type(value)
    assert parse(f"a: {text}", "r").data == {"a": value}
    assert parse(f"a: '{text}'", "r").data == {"a": text}


def test_what_is_dumped_is_read_back():
    data = {"a": ["1k", "no", "5e-4", 5e-4, 1e-5, "", None, True, "true", "é", "x: y", "010", 7]}
    assert parse(dump(data), "r").data == data


def test_values_of_a_recipe(write):
    recipe = load_recipe(write(GOOD)).recipe
    assert recipe.train.lr == 5e-4
    assert recipe.model.id == "gemma2-tiny-en"
    assert recipe.sae.shape() == (64, 4)
    assert recipe.baseline.architecture == "topk"
    assert recipe.data.train[1].split == "validation"
    assert (recipe.train.n_steps, recipe.train.n_tokens) == (20, 640)


def test_the_name_the_text_and_the_overrides_are_kept(write):
    loaded = load_recipe(write(GOOD), overrides=["seed=1"])
    assert loaded.name == "r"
    assert loaded.text == GOOD
    assert loaded.overrides == ("seed=1",)


def test_all_problems_are_told_at_once_with_their_lines(write):
    text = (
        GOOD.replace("n_parents", "n_experts").replace("k: 8", "kk: 8", 1)
        .replace("hookpoint:", "lr: 1\nhookpoint:")
        .replace("steps: 20", "steps: 20\n  tokens: 1k")
    )  # fmt: skip
    assert problems(write(text), "train.batchsize=8", "seed") == [
        "r.yaml:1: lr: unknown key; did you mean 'train.lr'?",
        "r.yaml:3: sae.n_parents: required, but not given",
        "r.yaml:3: sae.k: required, but not given",
        "r.yaml:6: sae.n_experts: unknown key; did you mean 'sae.n_parents'?",
        "r.yaml:9: sae.kk: unknown key; did you mean 'sae.k'?",
        "--set seed: must be written key=value, such as train.lr=1e-3",
        "--set train.batchsize=8: train.batchsize: unknown key; did you mean 'train.batch_size'?",
    ]


def test_the_header_counts_the_problems(write):
    with pytest.raises(UsageError, match=r"^the recipe has 2 problems; nothing was run\n"):
        load_recipe(write(GOOD), overrides=["sae.k=0", "train.lr=-1"])
    with pytest.raises(UsageError, match=r"^the recipe has 1 problem; nothing was run\n"):
        load_recipe(write(GOOD), overrides=["sae.k=0"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  k: 8\nbase", "  k: 8\n  k: 9\nbase", "r.yaml:9: sae.k: given twice, first in line 8"),
        ("k: 8\nbase", "k: 8\n  bias: no\nbase",
         "r.yaml:9: sae.bias: input should be a valid boolean, got 'no'; write true or false"),
        ("k: 8\nbase", "k: true\nbase", "r.yaml:8: sae.k: input should be a valid integer, got True"),
        ("k: 8\nbase", "k: 010\nbase", "r.yaml:8: sae.k: input should be a valid integer, got '010'"),
        ("k: 8\nbase", "k: 65\nbase", "r.yaml:2: sae: k (=65) must be at most n_parents (=64)"),
        ("lr: 5e-4", "lr: .inf", "r.yaml:22: train.lr: input should be a valid number, got '.inf'"),
        ("split: validation", "revision: 1234567",
         "r.yaml:18: data.train.1.revision: input should be a valid string, got 1234567;"
         " put it in quotes"),
        ("architecture: hsae", "architecture: hsea",
         "r.yaml:3: sae.architecture: unknown architecture 'hsea'; did you mean 'hsae'?"),
        ("  architecture: topk\n", "",
         "r.yaml:9: baseline.architecture: required, but not given; known: "
         + ", ".join(list_architectures())),
        ("    - text: [a.txt]", "    - txet: [a.txt]",
         "r.yaml:16: data.train.0.txet: unknown key; did you mean 'data.train.text'?"),
        ("    - text: [a.txt]", "    - {text: [a.txt], lines: [x]}",
         "r.yaml:16: data.train.0: give exactly one of text, dataset, builtin, sample, lines;"
         " given: text, lines"),
        ("    - text: [a.txt]", "    - {text: [a.txt], split: test}",
         "r.yaml:16: data.train.0: split goes with dataset, not with text"),
        ("steps: 20", "steps: 20\n  tokens: 1k",
         "r.yaml:19: train: give exactly one of steps and tokens; given: both; null takes one away"),
        ("warmup_steps: 5", "warmup_steps: 50",
         "r.yaml:19: train: warmup_steps (=50) must be at most the run's 20 steps"),
        ("batch_size: 32", "batch_size: 100k",
         "r.yaml:1: data.buffer_tokens (=65536) must be at least train.batch_size (=100000)"),
        ("d_in: 256\n  d_sae", "d_in: 255\n  d_sae",
         "r.yaml:1: baseline.d_in (=255) must be sae.d_in (=256)"),
        ("hookpoint: model.layers.3", "hookpoint:",
         "r.yaml:1: hookpoint: input should be a valid string, got None; put it in quotes"),
        ("hookpoint: model.layers.3\n", "", "r.yaml:1: hookpoint: required, but not given"),
        ("lr: 5e-4", "lr: [", None),
        ("lr: 5e-4", "lr: 5e-4\n\tx: 1", None),
    ],
)  # fmt: skip
def test_traps(write, old, new, expected):
    assert old in GOOD
    found = problems(write(GOOD.replace(old, new, 1)))
    if expected is None:
        assert len(found) == 1 and found[0].startswith("r.yaml:2") and "not YAML" in found[0]
    else:
        assert found == [expected]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words\n", "5\n"])
def test_a_file_without_keys_is_refused(write, text):
    (only,) = problems(write(text))
    assert "a recipe must have keys" in only


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "? [x, y]\n: 1\n", "a: 1\n---\nb: 2\n"])
def test_strange_yaml_is_refused(write, text):
    assert problems(write(text))


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_recipe(tmp_path / "r.yaml")


def test_overrides_win_over_the_recipe(write):
    recipe = load_recipe(
        write(GOOD),
        overrides=[
            "train.steps=null", "train.tokens=1k", "train.lr=1e-3", "baseline=null", "sae.k=4",
            "data.train.0.text=[b=c.txt]", "data.train.1={lines: ['x=1', no]}", "seed=1", "seed=2",
        ],
    ).recipe  # fmt: skip
    assert (recipe.train.n_steps, recipe.train.n_tokens) == (32, 1024)
    assert recipe.train.lr == 1e-3
    assert recipe.baseline is None
    assert recipe.sae.k == 4
    assert recipe.data.train[0].text == ["b=c.txt"]
    assert recipe.data.train[1].lines == ["x=1", "no"]
    assert recipe.seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "must be written key=value"),
        ("=3", "must be written key=value"),
        ("train..lr=3", "must be written key=value"),
        ("train.l=3", "unknown key; did you mean 'train.lr'?"),
        ("train.warmup_step=3", "unknown key; did you mean 'train.warmup_steps'?"),
        ("data.train.7.sample=3", "'7' is no place in a list of 2"),
        ("seed.x=1", "seed: Input should be a valid integer"),
        ("hookpoint.x=1", "which has no keys"),
        ("train.lr=[", "not YAML"),
        ("extends=other", "unknown key"),
    ],
)
def test_overrides_that_cannot_be_meant(write, override, expected):
    (only,) = problems(write(GOOD), override)
    assert only.startswith(f"--set {override}: ") and expected in only


def test_extends_changes_single_keys(write):
    write(GOOD, "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\ntrain:\n  lr: 1\nsae: {k: 2}\n")).recipe
    assert (recipe.train.lr, recipe.train.batch_size, recipe.sae.k) == (1, 32, 2)


def test_extends_a_shipped_recipe_by_name(write):
    recipe = load_recipe(write("extends: gemma2-tiny-en/l3_hsae\nseed: 5\n")).recipe
    assert recipe.seed == 5
    assert recipe.hookpoint == "model.layers.3"


def test_extends_with_another_architecture_starts_afresh(write):
    write(GOOD, "base.yaml")
    sae = "sae: {architecture: topk, d_in: 256, d_sae: 8, k: 1}\n"
    assert load_recipe(write(f"extends: base.yaml\n{sae}")).recipe.sae.d_sae == 8


def test_problems_of_an_extended_recipe_name_its_file(write):
    write(GOOD.replace("lr: 5e-4", "lr: fast"), "base.yaml")
    found = problems(write("extends: base.yaml\nseed: x\n"))
    assert found == [
        "base.yaml:22: train.lr: input should be a valid number, got 'fast'",
        "r.yaml:2: seed: input should be a valid integer, got 'x'",
    ]


def test_extends_goes_one_level(write):
    write(GOOD, "a.yaml")
    write("extends: a.yaml\n", "b.yaml")
    found = problems(write("extends: b.yaml\n"))
    assert found[0] == (
        "b.yaml:1: extends: the recipe that another one extends must stand on its own"
    )
    assert problems(write("extends: [a]\n"))[0].startswith("r.yaml:1: extends: must be a recipe's")


def test_further_saes_say_only_how_they_differ(write):
    flat = "  flat: {architecture: topk, d_in: 256, d_sae: 9, k: 4}\n"
    text = GOOD + "also:\n  k2: {k: 2}\n" + flat
    recipe = load_recipe(write(text)).recipe
    assert list(recipe.saes()) == ["sae", "baseline", "k2", "flat"]
    assert recipe.also["k2"] == recipe.sae.model_copy(update={"k": 2})
    assert recipe.also["flat"].d_sae == 9
    write(dump_recipe(recipe), "resolved.yaml")
    assert load_recipe("resolved.yaml").recipe == recipe
    for change, told in {
        "k2: {kk: 2}": "also.k2.kk: unknown key; did you mean 'also.k2.k'?",
        "k2: {d_in: 8}": "k2.d_in (=8) must be sae.d_in (=256)",
        "eval: {k: 2}": "also.eval: the name is taken",
        "a/b: {k: 2}": "also.a/b",
        "k2: 3": "r.yaml:25: also.k2: must have keys",
    }.items():
        assert told in "\n".join(problems(write(text.replace("k2: {k: 2}", change))))


def test_a_recipe_that_does_not_exist(tmp_path):
    with pytest.raises(NotFoundError, match=r"did you mean 'gemma2-tiny-en/l3_hsae'\?"):
        load_recipe("gemma2-tiny/l3_hsae")
    with pytest.raises(UsageError, match="is a folder"):
        load_recipe(tmp_path)


def _edits(key):
    yield from (key[:i] + key[i + 1 :] for i in range(len(key)) if len(key) > 1)
    yield from (key[:i] + "q" + key[i + 1 :] for i in range(len(key)))
    yield from (key[:i] + key[i + 1] + key[i] + key[i + 2 :] for i in range(len(key) - 1))
    yield key + "s"
    yield key.replace("_", "-")
    yield key.replace("_", "")
    yield key.upper()


def _all_keys():
    for path in key_paths(Recipe):
        if path[0] not in ("sae", "baseline") or len(path) == 1:
            yield path
    for name in list_architectures():
        yield from ((name, key) for key in config_class(name).model_fields)


@pytest.mark.parametrize("path", list(_all_keys()), ids=".".join)
def test_no_key_with_one_edit_is_accepted(path):
    *above, key = path
    is_sae = bool(above) and above[0] in list_architectures()
    inside = ("sae",) if is_sae else tuple(above)
    if above in (["data", "train"], ["data", "heldout"]):
        inside = ("data", "train", "0")
    known = {tuple(p) for p in _all_keys()}
    overrides = [
        ".".join((*inside, edit)) + "=null"
        for edit in dict.fromkeys(_edits(key))
        if (*above, edit) not in known and edit
    ]
    with pytest.raises(UsageError) as caught:
        chosen = [f"sae.architecture={above[0]}"] if is_sae else []
        load_recipe("gemma2-tiny-en/l3_hsae", overrides=[*chosen, *overrides])
    told = "\n".join(caught.value.problems)
    for override in overrides:
        assert f"--set {override}: {override.partition('=')[0]}: unknown key" in told


def test_the_schema_knows_every_architecture_and_accepts_extends():
    schema = recipe_schema()
    assert len(schema["$defs"]["SAEConfig"]["oneOf"]) == len(list_architectures())
    assert "n_children" in schema["$defs"]["hsae"]["properties"]
    assert schema["$defs"]["TrainSection"]["properties"]["lr"]["description"]
    assert "extends" in schema["properties"]


def test_every_key_is_explained():
    models = [Recipe, *{f.annotation for f in Recipe.model_fields.values()}, DataSource]
    for model in models:
        for name, field in getattr(model, "model_fields", {}).items():
            if getattr(field.annotation, "model_fields", None) is None:
                assert field.description or model.__name__ == "SAEConfig", f"{model}.{name}"


def test_sources_made_in_python():
    assert DataSource(lines=["a"]).kind == "lines"
    assert DataSource(sample=10).describe() == "10 tokens sampled from the model, temperature 1"
    assert DataSource(dataset="org/x", config="en").describe() == "org/x (en), split train"
    assert DataSource(text=["/home/me/x"]).describe() == "text files"
    assert DataSource(sample=10).model_dump() == {"sample": 10, "temperature": 1.0}
    with pytest.raises(ValidationError, match="given: none"):
        DataSource()


def test_seeds_differ_by_use_and_follow_the_seed():
    recipe = load_recipe("gemma2-tiny-en/l3_hsae").recipe
    uses = [recipe.seed_for(use) for use in ("init", "data", "sample")]
    assert len(set(uses)) == 3
    assert recipe.model_copy(update={"seed": 1}).seed_for("init") != uses[0]


def test_listing_recipes_loads_no_torch():
    code = (
        "import sys; from hsae_hub.recipes import list_recipes, find_recipe;"
        "assert find_recipe(list_recipes()[0]).text(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_text_that_repeats_itself_into_millions_is_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 10)}]" for i in range(1, 7)]
    for text in ("\n".join(lines), "[" * 5000):
        ((source, problem),) = parse(text, "r.yaml").problems
        assert source == "r.yaml" and "nested too deeply" in problem.message
