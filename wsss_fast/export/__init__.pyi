from .masks import Masks as Masks
from .masks import open_masks as open_masks
