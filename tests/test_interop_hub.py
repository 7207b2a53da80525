"""Foreign SAEs on a hub: known by their names, fetched with their hashes checked, imported; and `hsae import`."""

import json
from pathlib import Path

import pytest
import torch
from hub_world import World, make_run
from safetensors.torch import load_file
from test_interop import FOLDER, read

from hsae_hub import hub as hubs
from hsae_hub.artifact import read_artifact
from hsae_hub.cli.main import run
from hsae_hub.errors import CorruptError, DeniedError, NotFoundError, UsageError

pytest_plugins = ["hub_fixtures"]
pytestmark = [
    pytest.mark.usefixtures("no_waiting"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # the client's
]

SCOPE = "org/gemma-scope-2b-pt-res"
AT = "layer_20/width_16k/average_l0_71"
REF = f"{SCOPE}:{AT}"


def put(world: World, repo: str, *names: str, below: str = "") -> str:
    """Commits golden folders as they are; their names in the repository are those below `below`."""
    files = {}
    for name in names:
        for path in (p for p in (FOLDER / name).rglob("*") if p.is_file()):
            files[path.relative_to(FOLDER / below).as_posix()] = path.read_bytes()
    return world.put(files | {"README.md": b"---\nlicense: mit\n---\n# theirs"}, repo)


def put_scope(world: World) -> str:
    return put(world, SCOPE, f"gemma-scope-2b-pt-res/{AT}", below="gemma-scope-2b-pt-res")


def same_acts(sae, name: str) -> None:
    golden = load_file(FOLDER / name / "golden.safetensors")
    torch.testing.assert_close(
        sae.encode(golden["x"]).dense(), golden["acts"], rtol=1e-5, atol=1e-5
    )


def test_gemma_scope_is_loaded_from_its_repository_with_model_and_place(world: World) -> None:
    commit = put_scope(world)
    seen: list[tuple[int, int]] = []
    sae = hubs.load(REF, hub=world.hub(), on_progress=lambda *at: seen.append(at))
    same_acts(sae, f"gemma-scope-2b-pt-res/{AT}")
    config = sae.info.config
    assert config.model.id == "google/gemma-2-2b" and config.hookpoint.path == "model.layers.20"
    assert config.imported.source == f"{SCOPE}@{commit}:{AT}"
    size = (FOLDER / "gemma-scope-2b-pt-res" / AT / "params.npz").stat().st_size
    assert seen == [(size, size)], "nothing but the weights is fetched"


def test_a_pull_says_what_it_is_and_how_to_import_it(world: World) -> None:
    put_scope(world)
    hub = world.hub()
    for look in (hub.pull, hub.show):
        with pytest.raises(
            UsageError, match="is an SAE of Gemma Scope, not of this package"
        ) as caught:
            look(REF)
        assert caught.value.fix == f"hsae import {REF} DIR"
    with pytest.raises(NotFoundError, match=f"no SAE at the root of {SCOPE}") as root:
        hub.pull(SCOPE)
    assert (
        "it has 1 of Gemma Scope" in root.value.why and f"hsae import {REF} DIR" in root.value.fix
    )
    with pytest.raises(NotFoundError, match="did you mean"):
        hub.pull(f"{SCOPE}:{AT}0")


def test_pickles_are_not_even_fetched_unless_somebody_says_so(world: World) -> None:
    put(world, "org/dl", "dictionary_learning/topk", below="dictionary_learning")
    hub = world.hub()
    with pytest.raises(UsageError, match="is an SAE of dictionary_learning") as caught:
        hub.pull("org/dl:topk")
    assert caught.value.fix.endswith("--allow-pickle")
    with pytest.raises(DeniedError, match="whose weights are a pickle"):
        hubs.load("org/dl:topk", hub=hub)
    assert not list((world.tmp_path / "cache").rglob("*.pt"))
    same_acts(hubs.load("org/dl:topk", hub=hub, allow_pickle=True), "dictionary_learning/topk")


def test_a_file_is_named_where_a_folder_holds_several(world: World) -> None:
    source = FOLDER / "openai/resid_post_mlp_v5_32k/topk/6.pt"
    files = {f"resid_post_mlp_v5_32k/autoencoders/{n}.pt": source.read_bytes() for n in (6, 7)}
    world.put(files, "org/openai")
    folder = "org/openai:resid_post_mlp_v5_32k/autoencoders"
    with pytest.raises(NotFoundError, match="holds 2 files, each an SAE of OpenAI"):
        hubs.load(folder, hub=world.hub(), allow_pickle=True)
    sae = hubs.load(f"{folder}/7.pt", hub=world.hub(), allow_pickle=True)
    assert sae.info.config.hookpoint.path == "transformer.h.7"


def test_the_config_of_a_run_is_taken_from_the_folder_above(world: World) -> None:
    above = {"config.json": (FOLDER / "sparsify/config.json").read_bytes()}
    world.put(above, "org/sparsify")
    put(world, "org/sparsify", "sparsify/layers.10", below="sparsify")
    sae = hubs.load("org/sparsify:layers.10", hub=world.hub())
    assert sae.info.config.model.id == "HuggingFaceTB/SmolLM2-135M"
    assert sae.info.config.hookpoint.path == "layers.10"


def test_wrong_bytes_are_refused_before_they_are_read(world: World) -> None:
    put(world, "org/lens", "sae_lens/topk", below="sae_lens")
    weights = "topk/sae_weights.safetensors"
    world.damage(weights, lambda content: content[:-1] + b"x", "org/lens")
    with pytest.raises(CorruptError, match=f"{weights} of org/lens .* expected"):
        hubs.load("org/lens:topk", hub=world.hub())


def test_our_own_are_not_imported(world: World, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    world.hub().push(tmp_path / "run", "org/tiny")
    for ref in ("org/tiny", str(tmp_path / "run")):
        with pytest.raises(
            UsageError, match="is an SAE of this package, there is nothing to import"
        ):
            hubs.import_sae(ref, hub=world.hub())
    with pytest.raises(UsageError, match="unknown format 'npz'"):
        hubs.import_sae("org/tiny", hub=world.hub(), format="npz")


def test_the_command_writes_an_sae_of_ours_that_says_where_it_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = FOLDER / "dictionary_learning" / "matryoshka", tmp_path / "out"
    assert run(["import", str(source), str(out)]) == 4
    assert f"try: hsae import {source} DIR --allow-pickle" in capsys.readouterr().err
    assert run(["import", str(source), str(out), "--allow-pickle", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "hsae.import/1" and told["config"]["imported"]["notes"]
    artifact = read_artifact(out)
    assert artifact.config.imported == read("dictionary_learning/matryoshka").config.imported
    same_acts(artifact.sae, "dictionary_learning/matryoshka")
    assert run(["import", str(source), str(out), "--allow-pickle"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(["import", str(FOLDER / "sae_lens/topk"), str(tmp_path / "two")]) == 0
    text = capsys.readouterr().out
    assert "topk, 16 latents, float64" in text and "output of model.layers.20" in text
    assert run(["card", str(tmp_path / "two")]) == 0
    card = (tmp_path / "two" / "README.md").read_text()
    training = card.split("## Training")[1].split("## ")[0]
    assert (
        "| trained by | another toolkit |" in training
        and "| source | interop/sae_lens/topk |" in training
    )
    assert "decoder rows have norms from" in training
