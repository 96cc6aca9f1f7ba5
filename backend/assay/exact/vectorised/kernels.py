"""One kernel over all its elements: planned once a program, run once a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from assay.exact.program import Kernel, Source
from assay.exact.vectorised import scalars
from assay.exact.vectorised.folding import Folding
from assay.exact.vectorised.layout import Layout, NeedsScalar, plan_layout
from assay.exact.vectorised.products import Product
from assay.exact.vectorised.reading import Reader, Tensor
from assay.exact.vectorised.tree import build, fold_of
from assay.exact.vectorised.values import dtype_bounds


class KernelPlan:
    """How one kernel is computed; keeps its constants, and weights as BLAS wants them."""

    def __init__(self, kernel: Kernel, constant: Callable[[bytes], Tensor]) -> None:
        self.kernel = kernel
        self._tree = build(kernel.expression)
        self._fold = fold_of(self._tree, kernel.dtype)
        self._product = Product.of(kernel, self._tree, self._fold)
        self._constants = {
            number: constant(operand.root)
            for number, operand in enumerate(kernel.operands)
            if operand.source is Source.CONSTANT
        }
        self._layouts = _layouts(kernel)
        self._constant_readers = {
            number: Reader(self._layouts[number], tensor, 1)
            for number, tensor in self._constants.items()
            if self._layouts is not None
        }

    def run(self, tensors: Sequence[Tensor | None], rows: int) -> Tensor:
        """The kernel's tensor; `tensors` has one for each operand, None for constants."""
        with np.errstate(all="ignore"):
            if self._layouts is None:
                arrays = [tensor.array for tensor in self._operands(tensors)]
                return Tensor(scalars.run(self.kernel, arrays, rows), dtype_bounds(self.kernel.dtype))
            readers = self._readers(self._layouts, tensors, rows)
            found = self._product.run(readers, rows) if self._product else None
            return Tensor(*(found or Folding(self.kernel, self._tree, self._fold, readers, rows).result()))

    def accumulators(
        self, tensors: Sequence[Tensor | None], rows: int, element: int, steps: Sequence[int]
    ) -> list[int]:
        """The accumulator of an element, counted over all rows, after each of the ascending step counts."""
        row, inside = divmod(element, self.kernel.elements)
        with np.errstate(all="ignore"):
            if self._layouts is not None and self._fold.op is not None:
                readers = self._readers(self._layouts, tensors, rows)
                folding = Folding(self.kernel, self._tree, self._fold, readers, rows)
                found = folding.accumulators(row, inside, steps)
                if found is not None:
                    return found
            arrays = [tensor.array for tensor in self._operands(tensors)]
            return scalars.accumulators(self.kernel, arrays, row, inside, steps)

    def _operands(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        return [self._constants[k] if tensor is None else tensor for k, tensor in enumerate(tensors)]

    def _readers(
        self, layouts: Sequence[Layout], tensors: Sequence[Tensor | None], rows: int
    ) -> list[Reader]:
        return [
            self._constant_readers[number] if tensor is None else Reader(layouts[number], tensor, rows)
            for number, tensor in enumerate(tensors)
        ]


def _layouts(kernel: Kernel) -> list[Layout] | None:
    """None if the kernel is left to the scalar interpreter."""
    try:
        return [plan_layout(kernel, operand) for operand in kernel.operands]
    except NeedsScalar:
        return None
