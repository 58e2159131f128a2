"""Models: pure functions of parameters and rows of data. `base` says what a model is."""

from psgdsim.models.base import Model as Model
from psgdsim.models.base import Params as Params
from psgdsim.models.base import Stage as Stage
from psgdsim.models.base import compose as compose
from psgdsim.models.base import models as models
from psgdsim.models.base import register_model as register_model
from psgdsim.models.cnn import cnn as cnn
from psgdsim.models.linear_regression import linear_regression as linear_regression
from psgdsim.models.mlp import mlp as mlp
from psgdsim.models.quadratic import quadratic as quadratic
from psgdsim.models.softmax_regression import softmax_regression as softmax_regression
