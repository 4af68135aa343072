from . import activate as activate
from . import batch_losses as batch_losses
from . import crf as crf
from . import crf_files as crf_files
from . import masks as masks
from . import saliency as saliency
from . import seeds as seeds
from . import training as training
