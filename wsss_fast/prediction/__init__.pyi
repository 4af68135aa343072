from .arrays import Prediction as Prediction
from .files import PredictedFolder as PredictedFolder
from .images import predict as predict
from .model import Model as Model
from .opening import ModelOptions as ModelOptions
from .opening import open_model as open_model
