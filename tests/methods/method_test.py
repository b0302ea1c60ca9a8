"""What holds for all records, and what they are made of."""

import pytest

from tests.learning import linear
from tests.methods import cases
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.methods import method
from tff_lowrank.models import families

RECORD = method.Method('plain', 'Does nothing.', 'Nobody', build=lambda parts: parts.coded)


def test_a_record_needs_four_things_only():
  assert RECORD.settings is settings.NoSettings and RECORD.setting_names == ()
  assert RECORD.takes_uplink and not RECORD.takes_downlink and not RECORD.is_baseline
  RECORD.check(cases.choice(RECORD))
  assert RECORD.freezing(cases.choice(RECORD)) is None


def test_parts_give_the_arguments_of_builders():
  record = method.Method('plain', 'Does nothing.', 'Nobody', build=lambda parts: parts)
  parts = cases.build(record, uplink='float16', downlink='top_k(0.1)')
  assert parts.settings == settings.NoSettings() and parts.num_clients == cases.NUM_CLIENTS
  assert parts.common.keys() == cases.common().keys()
  assert parts.common['model_fn'] is cases.model(linear.keras_model)
  assert parts.coded == parts.common | dict(codec=cases.FLOAT16, seed=cases.SEED)
  both_ways = dict(downlink=parts.choice.downlink, initial_from_seed=False)
  assert parts.both_ways == parts.coded | both_ways


@pytest.mark.parametrize('record', methods.METHODS.values(), ids=methods.METHODS)
def test_records_make_sense(record):
  family = record.model_family
  assert family is None or family in families.FAMILIES
  for name, setting in settings.of(record.settings).items():
    assert record.name.startswith(name.split('_')[0]), "names begin with the method's"
    assert setting.about.endswith('.') and not setting.group
  if record.tried:
    name, values = record.tried
    assert len({*values}) == len(values) > 1
    assert record.replay is not None or family is not None
  record.check(cases.choice(record))


def test_codecs_that_keep_clients_out_of_rounds_can_be_refused():
  method.check_takes_all_clients(cases.choice(RECORD, uplink='error_feedback(top_k(0.1))'))
  with pytest.raises(ValueError, match=r'uplink=.*cmfl.* does not work with the method'):
    method.check_takes_all_clients(cases.choice(RECORD, uplink='cmfl(0.4, top_k)'))


@pytest.mark.parametrize(
  'personal, message',
  [((False, False), 'no personal weights'), ((True, True), 'no shared weights')],
)
def test_some_weights_must_be_personal_and_some_shared(personal, message):
  record = method.Method('own', 'Has its own.', 'Nobody',
                         build=lambda parts: method.build_personal(parts, [*personal]))  # fmt: skip
  with pytest.raises(ValueError, match=message):
    cases.build(record)
