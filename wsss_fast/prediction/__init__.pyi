from .arrays import Prediction as Prediction
from .files import PredictedFolder as PredictedFolder
from .model import Model as Model
from .opening import ModelOptions as ModelOptions
from .opening import open_model as open_model
from .predict import predict as predict
