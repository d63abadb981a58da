"""Empirical risk minimisation: the baseline that is hard to beat.

Source: Vapnik 1998; as a baseline of domain generalization, Gulrajani and Lopez-Paz,
"In Search of Lost Domain Generalization", ICLR 2021, arXiv:2007.01434.
"""

from __future__ import annotations

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Method, Output
from scmd.models.images import as_float


class ERM(Method):
    """Cross-entropy on the whole batch."""

    needs_teacher = False

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE."""
        ce = classification(self.predict(as_float(batch.images)), batch.labels)
        return {"loss": ce, "ce": ce.detach()}
