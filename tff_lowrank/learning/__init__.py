"""Learning processes: one `build_*` function per method, in the module of that name.

`composition` has the parts that the builders put together. FedAdam is any of the methods with
`tff.learning.optimizers.build_adam` as the server's optimizer.
"""

from tff_lowrank.learning.apf import build_apf_fed_avg as build_apf_fed_avg
from tff_lowrank.learning.apf import build_partial_sync_fed_avg as build_partial_sync_fed_avg
from tff_lowrank.learning.composition.downlink import check_downlink as check_downlink
from tff_lowrank.learning.composition.process import (
  ClientStatefulLearningOutput as ClientStatefulLearningOutput,
)
from tff_lowrank.learning.composition.process import (
  ClientStatefulLearningProcess as ClientStatefulLearningProcess,
)
from tff_lowrank.learning.fed_avg import build_compressed_fed_avg as build_compressed_fed_avg
from tff_lowrank.learning.fed_avg import build_fed_avg as build_fed_avg
from tff_lowrank.learning.fed_dyn import build_fed_dyn as build_fed_dyn
from tff_lowrank.learning.fed_prox import build_fed_prox as build_fed_prox
from tff_lowrank.learning.global_look_back import (
  build_global_lbgm_fed_avg as build_global_lbgm_fed_avg,
)
from tff_lowrank.learning.lbgm import build_lbgm_fed_avg as build_lbgm_fed_avg
from tff_lowrank.learning.lbgm import build_shared_lbgm_fed_avg as build_shared_lbgm_fed_avg
from tff_lowrank.learning.personal import build_local_only as build_local_only
from tff_lowrank.learning.personal import build_personal_fed_avg as build_personal_fed_avg
from tff_lowrank.learning.scaffold import build_scaffold as build_scaffold

__all__ = [
  'ClientStatefulLearningOutput',
  'ClientStatefulLearningProcess',
  'build_apf_fed_avg',
  'build_compressed_fed_avg',
  'build_fed_avg',
  'build_fed_dyn',
  'build_fed_prox',
  'build_global_lbgm_fed_avg',
  'build_lbgm_fed_avg',
  'build_local_only',
  'build_partial_sync_fed_avg',
  'build_personal_fed_avg',
  'build_scaffold',
  'build_shared_lbgm_fed_avg',
  'check_downlink',
]
