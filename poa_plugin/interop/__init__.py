"""Checkpoints of other code bases: read without running anything in them, and made into runs of this package.

Public: `read_checkpoint` and `import_checkpoint`.
"""

from poa_plugin.interop.checkpoint import read_checkpoint
from poa_plugin.interop.importer import import_checkpoint

__all__ = ["import_checkpoint", "read_checkpoint"]
