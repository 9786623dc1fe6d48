"""The build: configs/ssl and slurm become poa_plugin/recipes and poa_plugin/profiles in a wheel.

A link in the package would be lost from zip archives of the repository, and `package-dir` fails in editable
installs, which read these files where they are. All else stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COPIED = {"configs/ssl": "poa_plugin/recipes", "slurm": "poa_plugin/profiles"}
"""Folders of YAML files, and where they go in a wheel."""


class BuildWithSettings(build_py):
    """Copies recipes and profiles beside the modules."""

    def run(self) -> None:
        """Copy everything."""
        super().run()
        for source, target in self._copies().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return all files that are written."""
        return [*super().get_outputs(include_bytecode), *map(str, self._copies().values())]

    def _copies(self) -> dict[Path, Path]:
        if self.editable_mode:
            return {}
        return {
            file: Path(self.build_lib, target, file.name)
            for folder, target in COPIED.items()
            for file in sorted(Path(folder).glob("*.yaml"))
        }


setup(cmdclass={"build_py": BuildWithSettings})
