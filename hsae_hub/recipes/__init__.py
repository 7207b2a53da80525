"""Recipes: one YAML file says the whole of a training run. Reading one loads no torch."""

from typing import TYPE_CHECKING

from hsae_hub.lazy import lazily
from hsae_hub.recipes.comparing import differing as differing
from hsae_hub.recipes.comparing import keys_of as keys_of
from hsae_hub.recipes.shipped import RecipeFile as RecipeFile
from hsae_hub.recipes.shipped import find_recipe as find_recipe
from hsae_hub.recipes.shipped import find_suite as find_suite
from hsae_hub.recipes.shipped import list_recipes as list_recipes
from hsae_hub.recipes.shipped import list_suites as list_suites

if TYPE_CHECKING:
    from hsae_hub.recipes.loading import LoadedRecipe as LoadedRecipe
    from hsae_hub.recipes.loading import dump_recipe as dump_recipe
    from hsae_hub.recipes.loading import load_recipe as load_recipe
    from hsae_hub.recipes.publishing import without_paths as without_paths
    from hsae_hub.recipes.schema import DataConfig as DataConfig
    from hsae_hub.recipes.schema import DataSource as DataSource
    from hsae_hub.recipes.schema import EvalSection as EvalSection
    from hsae_hub.recipes.schema import ModelSection as ModelSection
    from hsae_hub.recipes.schema import Recipe as Recipe
    from hsae_hub.recipes.schema import TrainSection as TrainSection
    from hsae_hub.recipes.schema import VocabularySection as VocabularySection
    from hsae_hub.recipes.schema import recipe_schema as recipe_schema

__getattr__ = lazily(
    __name__,
    {
        "LoadedRecipe": "loading",
        "dump_recipe": "loading",
        "load_recipe": "loading",
        "without_paths": "publishing",
        "DataConfig": "schema",
        "DataSource": "schema",
        "EvalSection": "schema",
        "ModelSection": "schema",
        "Recipe": "schema",
        "TrainSection": "schema",
        "VocabularySection": "schema",
        "recipe_schema": "schema",
    },
)
