"""FedProx, SCAFFOLD and FedDyn in the binaries."""

import pandas as pd
import pytest

from tests.cli import binaries

FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64', '--partition=shards:3')  # fmt: skip


def test_methods_compared(tmp_path):
  binaries.run(
    'compare', *FAST, '--methods=fed_avg,fed_prox:fed_prox_mu=0.0,fed_prox,scaffold,'
    'fed_dyn:fed_dyn_alpha=0.0,fed_dyn:model_family=fedpara:uplink=float16',
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv').set_index('method')
  accuracy, up, down = (rows[c] for c in ('final_accuracy', 'uplink_bytes', 'downlink_bytes'))
  for off in ('fed_prox:fed_prox_mu=0.0', 'fed_dyn:fed_dyn_alpha=0.0'):
    assert accuracy[off] == accuracy['fed_avg']
    assert up[off] == up['fed_avg'] and down[off] == down['fed_avg']
  assert up['fed_prox'] == up['fed_avg']
  assert up['scaffold'] == 2 * up['fed_avg'] and down['scaffold'] == 2 * down['fed_avg']
  # FedPAQ on FedPara: half of the downlink, but for the rounding of a message to bytes.
  coded = 'fed_dyn:model_family=fedpara:uplink=float16'
  assert 2 * up[coded] == down[coded] < down['fed_avg']


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--fed_prox_mu=0.3'], '--fed_prox_mu has no effect with fed_avg'),
    (['--method=scaffold', '--client_optimizer=adam'], 'does not work with SCAFFOLD'),
    (['--method=fed_dyn', '--uplink=cmfl(0.4)'], 'cmfl excludes whole clients from a round'),
  ],
)
def test_refuses_flags_that_do_nothing_or_contradict(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('train', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())
