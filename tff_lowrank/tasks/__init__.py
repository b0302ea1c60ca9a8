"""Tasks: a federated data set with its model, loss and metrics; named tasks and your own."""

from tff_lowrank.tasks.building import NATURAL as NATURAL
from tff_lowrank.tasks.building import build as build
from tff_lowrank.tasks.building import check_name as check_name
from tff_lowrank.tasks.building import check_partition as check_partition
from tff_lowrank.tasks.building import default_num_clients as default_num_clients
from tff_lowrank.tasks.building import default_partition as default_partition
from tff_lowrank.tasks.building import simple_partitions as simple_partitions
from tff_lowrank.tasks.building import source as source
from tff_lowrank.tasks.catalog import EMBEDDED as EMBEDDED
from tff_lowrank.tasks.catalog import NAMES as NAMES
from tff_lowrank.tasks.catalog import SYNTHETIC as SYNTHETIC
from tff_lowrank.tasks.from_data import from_client_data as from_client_data
from tff_lowrank.tasks.options import prepare as prepare
from tff_lowrank.tasks.task import Task as Task

__all__ = [
  'EMBEDDED',
  'NAMES',
  'NATURAL',
  'SYNTHETIC',
  'Task',
  'build',
  'check_name',
  'check_partition',
  'default_num_clients',
  'default_partition',
  'from_client_data',
  'prepare',
  'simple_partitions',
  'source',
]
