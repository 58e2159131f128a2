"""Data: rows to train on, how they are dealt out, and in which order. `base` says what a data set is."""

from psgdsim.data.assignment import Assignment as Assignment
from psgdsim.data.assignment import AssignmentName as AssignmentName
from psgdsim.data.assignment import assign as assign
from psgdsim.data.base import Dataset as Dataset
from psgdsim.data.base import DatasetPart as DatasetPart
from psgdsim.data.base import Partition as Partition
from psgdsim.data.base import datasets as datasets
from psgdsim.data.base import partitions as partitions
from psgdsim.data.base import register_dataset as register_dataset
from psgdsim.data.base import register_partition as register_partition
from psgdsim.data.digits import digits as digits
from psgdsim.data.mnist import fashion_mnist as fashion_mnist
from psgdsim.data.mnist import mnist as mnist
from psgdsim.data.order import SampleOrder as SampleOrder
from psgdsim.data.order import split_rows as split_rows
from psgdsim.data.partition import dirichlet as dirichlet
from psgdsim.data.partition import iid as iid
from psgdsim.data.partition import label_shards as label_shards
from psgdsim.data.quantity import quantity_skew as quantity_skew
from psgdsim.data.synthetic import none as none
from psgdsim.data.synthetic import synthetic_classification as synthetic_classification
from psgdsim.data.synthetic import synthetic_linear as synthetic_linear
