"""A training method as a record: its settings, what it supports, and how to build its process."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import freezing as freezing_lib
from tff_lowrank import learning
from tff_lowrank import settings as settings_lib
from tff_lowrank.analysis import replay as replay_lib


class Choice(NamedTuple):
  """The choices for a run, before anything is built.

  settings: an instance of `Method.settings`.
  client_optimizer: the optimizer's name.
  initial_from_seed: see `learning.composition.process.build_process`.
  """

  settings: Any
  uplink: codecs.Codec
  downlink: codecs.Codec
  client_optimizer: str
  seed: int
  initial_from_seed: bool = False


class Parts(NamedTuple):
  """The parts that a process is built from.

  model: made from the model of `keras_model_fn`.
  num_clients: the number of all clients, sampled or not.
  """

  choice: Choice
  model: tff.learning.models.FunctionalModel
  keras_model_fn: Callable[[], tf.keras.Model]
  client_optimizer: client_work.ClientOptimizer
  server_optimizer: tff.learning.optimizers.Optimizer
  client_weighting: tff.learning.ClientWeighting
  num_clients: int

  @property
  def settings(self) -> Any:
    """An instance of `Method.settings`."""
    return self.choice.settings

  @property
  def common(self) -> dict[str, Any]:
    """The arguments common to all `learning.build_*`."""
    return dict(
      model_fn=self.model,
      client_optimizer_fn=self.client_optimizer,
      server_optimizer_fn=self.server_optimizer,
      client_weighting=self.client_weighting,
    )

  @property
  def coded(self) -> dict[str, Any]:
    """`common`, with the uplink codec."""
    return dict(self.common, codec=self.choice.uplink, seed=self.choice.seed)

  @property
  def both_ways(self) -> dict[str, Any]:
    """`coded`, with the downlink codec."""
    return dict(
      self.coded,
      downlink=self.choice.downlink,
      initial_from_seed=self.choice.initial_from_seed,
    )


def _nothing_to_check(choice: Choice) -> None:
  del choice


def _freezes_nothing(choice: Choice) -> None:
  del choice


@dataclasses.dataclass(frozen=True)
class Method:
  """A method of federated learning, as one record.

  name: the value of `--method`.
  about: a description in one sentence.
  source: the paper.
  build: builds the process. Raises ValueError if the method has no effect on the model.
  settings: the class of its own settings. Their names start with the method's; methods may share
    a class.
  takes_uplink: whether an uplink codec may be chosen.
  takes_downlink: whether a downlink codec may be chosen.
  model_family: the layer family of its models; None for any.
  is_personal: whether each client has a personal model, which is tested on its own examples.
  is_baseline: whether other methods are compared with it. True for one method only.
  check: raises ValueError if the choices contradict each other.
  freezing: how parameters are frozen; returns None if the method does not freeze any.
  tried: a setting, its own or a run's, and the values of it that `tff-lowrank advise` tries.
  replay: computes what the method would have sent and lost in recorded rounds of FedAvg; None if
    this cannot be computed from them.
  """

  name: str
  about: str
  source: str
  build: Callable[[Parts], learning.ClientStatefulLearningProcess]
  settings: type[settings_lib.Settings] = settings_lib.NoSettings
  takes_uplink: bool = True
  takes_downlink: bool = False
  model_family: str | None = None
  is_personal: bool = False
  is_baseline: bool = False
  check: Callable[[Choice], None] = _nothing_to_check
  freezing: Callable[[Choice], freezing_lib.Settings | None] = _freezes_nothing
  tried: tuple[str, tuple[Any, ...]] | None = None
  replay: Callable[[Choice, Sequence[replay_lib.Round]], replay_lib.Replayed] | None = None

  @property
  def setting_names(self) -> tuple[str, ...]:
    return tuple(settings_lib.of(self.settings))


def check_takes_all_clients(choice: Choice) -> None:
  """A `Method.check`: raises ValueError if the uplink excludes whole clients from a round."""
  for part in choice.uplink.parts:
    if part.traits.whole_client:
      raise ValueError(
        f'uplink={choice.uplink} does not work with the method: {part.name} excludes whole clients '
        'from a round.'
      )


def build_personal(parts: Parts, personal: list[bool]) -> learning.ClientStatefulLearningProcess:
  """The process in which the trainable weights where `personal` is true are personal.

  Raises ValueError if none of them is, or all are.
  """
  if not any(personal):
    raise ValueError(
      'The method finds no personal weights in the model: none of its layers gets smaller by '
      'factors.'
    )
  if all(personal):
    raise ValueError(
      'The method finds no shared weights in the model: each client would train alone.'
    )
  return learning.build_personal_fed_avg(**parts.coded, personal=personal)
