"""Evaluation: frozen features, k nearest neighbours, tables, plots and the page about a run."""

from poa_plugin.evaluate.features import evaluation_images, extract_features, raw_pixels
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.report import write_report
from poa_plugin.evaluate.results import (
    KnnRow,
    merge_rows,
    network_table,
    read_rows,
    results_table,
    write_rows,
)

__all__ = [
    "KnnRow",
    "evaluation_images",
    "extract_features",
    "knn_accuracy",
    "merge_rows",
    "network_table",
    "raw_pixels",
    "read_rows",
    "results_table",
    "write_report",
    "write_rows",
]
