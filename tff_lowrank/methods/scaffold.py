"""SCAFFOLD: control variates correct the local steps."""

from tff_lowrank import learning
from tff_lowrank.methods import method


def _check(choice: method.Choice) -> None:
  if choice.client_optimizer != 'sgd':
    raise ValueError(
      f'client_optimizer={choice.client_optimizer} does not work with SCAFFOLD, which corrects '
      'the steps of sgd.'
    )
  method.check_takes_all_clients(choice)


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_scaffold(**parts.coded, num_clients=parts.num_clients)


METHOD = method.Method(
  name='scaffold',
  about='Control variates correct local steps by the difference of client and global gradients.',
  source='Karimireddy et al., SCAFFOLD, ICML 2020',
  build=_build,
  check=_check,
)
