"""The examples in the docstrings of the public ops print what is written there."""

import doctest
import inspect

import pytest
import torch

from wsss_fast import ops

# The docstring of label_conditioned_activation refers to label_conditioned_logits.
WITH_EXAMPLE = sorted({*ops.__all__} - {"reference", "label_conditioned_activation"})


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_examples(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(
        getattr(ops, name), name, globs={"torch": torch, **vars(ops)}
    )
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0


def test_every_op_has_a_reference():
    """`ops.reference` finds its functions in the modules of its folder."""
    ops_with_kernels = {name for name in ops.__all__ if name.islower()} - {
        "reference",
        "unary_from_labels",  # plain PyTorch
        "unary_from_probabilities",
    }
    assert ops_with_kernels <= set(ops.reference.__all__)
    assert all(inspect.isfunction(getattr(ops.reference, name)) for name in ops.reference.__all__)
