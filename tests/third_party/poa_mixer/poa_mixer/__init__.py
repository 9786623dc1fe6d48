"""A plugin of poa_plugin: importing it registers a backbone, a data set, a loss term and an export format."""

from poa_mixer import backbone, data, export, term

__all__ = ["backbone", "data", "export", "term"]
