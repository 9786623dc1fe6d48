"""Self-supervised learning: the three branches, heads, targets and losses."""

from poa_plugin.ssl.building import build_backbone, head_options
from poa_plugin.ssl.check import check_model
from poa_plugin.ssl.heads import MultiHead
from poa_plugin.ssl.objective import trains_elastic_student
from poa_plugin.ssl.poa import POA

__all__ = [
    "POA",
    "MultiHead",
    "build_backbone",
    "check_model",
    "head_options",
    "trains_elastic_student",
]
