from .conversion import convert_model as convert_model
from .graph import SegmentationGraph as SegmentationGraph
