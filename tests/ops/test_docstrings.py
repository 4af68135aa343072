"""The examples in the docstrings of the public ops print what they say."""

import doctest

import pytest
import torch

from wsss_fast import ops

# label_conditioned_activation is label_conditioned_logits and a softmax; its docstring refers there.
WITH_EXAMPLE = [
    name for name in ops.__all__ if name not in ("reference", "label_conditioned_activation")
]


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_examples(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(
        getattr(ops, name), name, globs={"torch": torch, **vars(ops)}
    )
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
