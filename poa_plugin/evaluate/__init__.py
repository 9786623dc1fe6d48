"""Evaluation: what the networks of a backbone are worth. Importing the package registers the protocols."""

from poa_plugin.evaluate import knn

__all__ = ["knn"]
