from . import brush as brush
from . import rle as rle
from .coco import to_coco as to_coco
from .labelstudio import to_labelstudio as to_labelstudio
from .masks import Masks as Masks
from .masks import open_masks as open_masks
from .voc_test import to_voc_test as to_voc_test
