"""An index goes to a hub beside its SAE, and comes back when it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_world import REPO, World, make_run
from small_corpus import DATA, files

from hsae_hub import load_features
from hsae_hub.architectures import build
from hsae_hub.artifact import HookpointConfig, ModelConfig, read_artifact, save_sae
from hsae_hub.errors import CorruptError
from hsae_hub.features import build_index
from hsae_hub.models import LanguageModel

pytest_plugins = ["feature_fixtures", "hub_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


@pytest.fixture(scope="module")
def run(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tree = {
        "architecture": "hsae",
        "d_in": 256,
        "n_parents": 8,
        "n_children": 2,
        "d_subspace": 2,
        "k": 3,
    }
    place = HookpointConfig(path="model.layers.3")
    save_sae(build(tree, seed=0), folder, model=ModelConfig(id="gemma2-tiny-en"), hookpoint=place)
    build_index(read_artifact(folder).sae, DATA, folder, model=model, tokens=200)
    (folder / "features" / "notes.txt").write_text("mine")
    return folder


def test_it_is_pushed_and_pulled_on_demand(world: World, run: Path) -> None:
    world.hub().push(run, REPO)
    names = {"contexts.parquet", "latents.parquet", "windows.parquet", "index.json", "gallery.json"}
    assert {p for p in world.files() if p.startswith("features/")} == {
        f"features/{n}" for n in names
    }
    pulled = world.hub("other").pull(REPO)
    assert {p for p in pulled.files if p.endswith(".parquet")} == set()
    index = load_features(REPO, hub=world.hub("other"))
    assert {n: c for n, c in files(run / "features").items() if n in names} == files(index.folder)
    assert index.feature("3").feature == "3"


def test_the_index_of_other_weights_is_not_pushed(world: World, run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other")
    (tmp_path / "other/features").mkdir()
    for name, content in files(run / "features").items():
        (tmp_path / "other/features" / name).write_bytes(content)
    with pytest.raises(CorruptError, match="other weights"):
        world.hub().push(tmp_path / "other", REPO)


def test_reading_an_index_loads_no_language_model(run: Path) -> None:
    code = (
        "import sys, json; from hsae_hub.features import FeatureIndex; "
        f"FeatureIndex.open({str(run)!r}).feature('3'); "
        "print(json.dumps(sorted({'nnsight', 'transformers'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
