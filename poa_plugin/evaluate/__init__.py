"""Evaluation: frozen features, k nearest neighbours, tables, plots and the page about a run."""

from poa_plugin.evaluate.features import extract_features, raw_pixels
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.report import write_report
from poa_plugin.evaluate.results import KnnRow, network_table, results_table

__all__ = [
    "KnnRow",
    "extract_features",
    "knn_accuracy",
    "network_table",
    "raw_pixels",
    "results_table",
    "write_report",
]
