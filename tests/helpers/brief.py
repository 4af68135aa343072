"""Pipelines and recipes that train for a few updates only."""

import dataclasses

from wsss_fast import amn, eps, irn


def brief(recipe, crop=None, **changes):
    """A recipe with batches of 8 and, if given, another crop."""
    augment = recipe.augment if crop is None else dataclasses.replace(recipe.augment, crop=crop)
    return dataclasses.replace(recipe, batch_size=8, augment=augment, **changes)


def amn_pipeline(**changes):
    """One epoch of everything; `changes` are those of the AMN's recipe."""
    small = amn.PIPELINES["small"]
    return dataclasses.replace(
        small,
        cam=brief(small.cam, epochs=1),
        amn=brief(small.amn, epochs=1, **changes),
        refine=dataclasses.replace(small.refine, irn=brief(small.refine.irn, epochs=1, steps=16)),
        seg=brief(small.seg, updates=2),
    )


def eps_pipeline(**changes):
    """One epoch of the baseline, a few updates of the others; `changes` are the pipeline's."""
    small = eps.PIPELINES["small"]
    return dataclasses.replace(
        small,
        cam=brief(small.cam, 64, epochs=1),
        eps=brief(small.eps, 64, updates=3),
        seg=brief(small.seg, 64, updates=2),
        **changes,
    )


def irn_pipeline():
    """One epoch of everything."""
    small = irn.PIPELINES["small"]
    return dataclasses.replace(
        small,
        cam=brief(small.cam, 64, epochs=1, scales=(1.0,)),
        irn=brief(small.irn, 64, epochs=1, radius=4, steps=16),
    )
