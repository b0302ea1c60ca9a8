"""TFF aggregation factories: standard ones and ones with client state."""

from tff_lowrank.aggregators.apf import FreezingFactory as FreezingFactory
from tff_lowrank.aggregators.client_stateful import (
  ClientStatefulAggregationFactory as ClientStatefulAggregationFactory,
)
from tff_lowrank.aggregators.client_stateful import (
  ClientStatefulAggregationOutput as ClientStatefulAggregationOutput,
)
from tff_lowrank.aggregators.client_stateful import (
  ClientStatefulAggregationProcess as ClientStatefulAggregationProcess,
)
from tff_lowrank.aggregators.client_stateful import lift as lift
from tff_lowrank.aggregators.coded_mean import (
  ClientStatefulCodedMeanFactory as ClientStatefulCodedMeanFactory,
)
from tff_lowrank.aggregators.coded_mean import CodedMeanFactory as CodedMeanFactory
from tff_lowrank.aggregators.global_look_back import GlobalLookBackFactory as GlobalLookBackFactory
from tff_lowrank.aggregators.partial_mean import (
  check_codec_under_freezing as check_codec_under_freezing,
)
from tff_lowrank.aggregators.shared_look_back import SharedLookBackFactory as SharedLookBackFactory

__all__ = [
  'ClientStatefulAggregationFactory',
  'ClientStatefulAggregationOutput',
  'ClientStatefulAggregationProcess',
  'ClientStatefulCodedMeanFactory',
  'CodedMeanFactory',
  'FreezingFactory',
  'GlobalLookBackFactory',
  'SharedLookBackFactory',
  'check_codec_under_freezing',
  'lift',
]
