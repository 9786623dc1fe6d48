"""What becomes of gradients that several ranks compute, seen from the meta-architecture."""

from __future__ import annotations


class Reduction:
    """Is told about the backward passes of a step; in one process there is nothing to do.

    Training on several ranks puts another one in its place (`poa_plugin.train.parallel`).
    """

    def before_backward(self, is_last: bool) -> None:
        """Prepare a backward pass.

        Args:
            is_last: whether it is the last of the step, after which gradients are complete.
        """

    def after_backward(self) -> None:
        """Add the gradients of all ranks, after the last backward pass of a step."""
