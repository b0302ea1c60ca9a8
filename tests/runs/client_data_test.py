import re

import numpy as np
import pytest

from tests.cli import binaries
from tff_lowrank.datasets import arrays

FAST = ('--task=digits', '--rounds=3', '--num_clients=4', '--clients_per_round=0')


def missing(examples):
  raise FileNotFoundError(2, 'No such file or directory', 'gone.h5')


def of_another_type(examples):
  return examples._replace(y=examples.y.astype(np.int64))


@pytest.mark.parametrize(
  'fails, found',
  [
    (missing, "examples of client 'client_1'.*gone.h5"),
    (of_another_type, "examples of client 'client_1' like those of others.*int64"),
  ],
)
def test_a_client_whose_examples_fail_ends_the_run(tmp_path, monkeypatch, capsys, fails, found):
  read = arrays.ArrayClientData.examples
  calls = []

  def examples(self, client_id):
    calls.append(client_id)
    # Not in the first round.
    is_failing = client_id == 'client_1' and calls.count(client_id) > 1
    return fails(read(self, client_id)) if is_failing else read(self, client_id)

  monkeypatch.setattr(arrays.ArrayClientData, 'examples', examples)
  assert binaries.status('train', *FAST, f'--output_dir={tmp_path}') == 2
  (line, _) = capsys.readouterr().err.splitlines()[-2:]
  assert re.search(found, line)
