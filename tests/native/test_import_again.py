"""A package that is imported or reloaded again in one process: torch keeps what was registered."""

import pytest
from native_builds import HAS_COMPILER, finish, start

SCRIPT = """
import gc, importlib, sys, warnings
import torch
image = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(1, 3, 6, 8)
unary = torch.linspace(0, 3, 2 * 6 * 8).reshape(1, 2, 6, 8)
scores = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4).requires_grad_()
labels = torch.zeros(1, 4, 4, dtype=torch.long)

def check(ops):
    q = ops.dense_crf(image, unary, iterations=2)
    (gradient,) = torch.autograd.grad(ops.pixel_cross_entropy(scores, labels), scores)
    return q, gradient

def remove():
    for name in [name for name in sys.modules if name.startswith("wsss_fast")]:
        del sys.modules[name]
    gc.collect()

import wsss_fast
first = wsss_fast.ops
expected = check(first)
remove()
import wsss_fast
assert wsss_fast.ops is not first
results = [check(wsss_fast.ops), check(first)]
call = torch.compile(
    lambda i, u: wsss_fast.ops.dense_crf(i, u, iterations=2), fullgraph=True, backend="aot_eager"
)
results.append((call(image, unary), expected[1]))
for name in ("wsss_fast.ops._library", "wsss_fast.ops.dense_crf", "wsss_fast._native",
             "wsss_fast.ops", "wsss_fast"):
    importlib.reload(importlib.import_module(name))
results.append(check(wsss_fast.ops))
del first
remove()
import wsss_fast
results.append(check(wsss_fast.ops))
same = all(torch.equal(a, b) for result in results for a, b in zip(result, expected))
print(wsss_fast.info()["backend"], same, sep="|")
"""


def test_package_is_imported_again(built_cache):
    fields, _ = finish(start(built_cache, SCRIPT))
    assert fields == ["native" if HAS_COMPILER else "reference", "True"]


def test_another_signature_is_refused(monkeypatch):
    """An edited package, reloaded: its kernels would be called with other arguments."""
    from wsss_fast.ops import _library

    with pytest.raises(RuntimeError, match="with another signature .* start a new process"):
        _library.define("dense_crf(Tensor a) -> Tensor", reference=abs, fake=abs)
