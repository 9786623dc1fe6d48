"""The build: configs/ssl becomes poa_plugin/recipes in a wheel. All else stands in pyproject.toml.

A link in the package would be lost from zip archives of the repository, and `package-dir` fails in editable
installs, which read the recipes where they are.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RECIPES, TARGET = Path("configs/ssl"), "poa_plugin/recipes"


class BuildWithRecipes(build_py):
    """Copies the recipes beside the modules."""

    def run(self) -> None:
        """Copy everything."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, TARGET)
            self.mkpath(str(folder))
            for recipe in sorted(RECIPES.glob("*.yaml")):
                self.copy_file(str(recipe), str(folder / recipe.name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return all files that are written."""
        recipes = [] if self.editable_mode else sorted(RECIPES.glob("*.yaml"))
        copies = [str(Path(self.build_lib, TARGET, recipe.name)) for recipe in recipes]
        return [*super().get_outputs(include_bytecode), *copies]


setup(cmdclass={"build_py": BuildWithRecipes})
