"""What a method is: a record of its settings, what it goes with, and how its process is built."""

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
  """What was chosen for a run, before anything is built.

  settings: of the class `Method.settings`.
  client_optimizer: its name.
  """

  settings: Any
  uplink: codecs.Codec
  downlink: codecs.Codec
  client_optimizer: str
  seed: int


class Parts(NamedTuple):
  """What a process is built of.

  model: made of what `keras_model_fn` builds.
  num_clients: of all clients, sampled or not.
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
    """Of the class `Method.settings`."""
    return self.choice.settings

  @property
  def common(self) -> dict[str, Any]:
    """The arguments that all of `learning.build_*` take."""
    return dict(
      model_fn=self.model,
      client_optimizer_fn=self.client_optimizer,
      server_optimizer_fn=self.server_optimizer,
      client_weighting=self.client_weighting,
    )

  @property
  def coded(self) -> dict[str, Any]:
    """`common`, with the codec of the way up."""
    return dict(self.common, codec=self.choice.uplink, seed=self.choice.seed)

  @property
  def both_ways(self) -> dict[str, Any]:
    """`coded`, with the codec of the way down."""
    return dict(self.coded, downlink=self.choice.downlink)


def _nothing_to_check(choice: Choice) -> None:
  del choice


def _freezes_nothing(choice: Choice) -> None:
  del choice


@dataclasses.dataclass(frozen=True)
class Method:
  """A method of federated learning, as one record.

  name: what `--method` is.
  about: one sentence.
  source: the paper.
  build: makes the process. Raises ValueError if the method has no effect on the model.
  settings: the class of its own settings. Names begin with the method's; methods may share one.
  takes_uplink: whether a codec may be chosen for the way up.
  takes_downlink: the same for the way down.
  model_family: the family that the layers of its models are of; None if any will do.
  is_personal: whether clients have models of their own, which are tested on their own examples.
  is_baseline: whether others are compared with it. Of one method alone.
  check: raises ValueError if what was chosen does not go together.
  freezing: how parameters are frozen; gives None of a method that freezes none.
  tried: a setting, its own or a run's, and the values of it that `advise` tries.
  replay: what the method would have sent of recorded rounds of FedAvg, and lost; None if that
    cannot be told from them.
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
  """A `Method.check`: raises ValueError if the uplink keeps whole clients out of a round."""
  for part in choice.uplink.parts:
    if part.traits.whole_client:
      raise ValueError(
        f'uplink={choice.uplink} does not work with the method: {part.name} excludes whole clients '
        'from a round.'
      )


def build_personal(parts: Parts, personal: list[bool]) -> learning.ClientStatefulLearningProcess:
  """The process where the trainable weights at which `personal` is true are the client's own.

  Raises ValueError if that is none of them, or all.
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
