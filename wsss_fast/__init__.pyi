from . import amn as amn
from . import cam as cam
from . import ccr as ccr
from . import compat as compat
from . import convert as convert
from . import data as data
from . import eps as eps
from . import evaluation as evaluation
from . import export as export
from . import irn as irn
from . import nets as nets
from . import ops as ops
from . import prediction as prediction
from . import refinement as refinement
from . import reproduce as reproduce
from . import seg as seg
from ._native import info as info
from .errors import InputError as InputError
from .errors import RunError as RunError
from .evaluation.confusion_ratio import confusion_ratios as confusion_ratios
from .evaluation.curves import threshold_curve as threshold_curve
from .evaluation.metrics import evaluate as evaluate
from .prediction.images import predict as predict
from .refinement import RefineResult as RefineResult
from .refinement import refine as refine
from .stages import seeds as seeds

__version__: str
