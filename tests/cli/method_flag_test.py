from absl import app
from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.cli import method_flag


def chosen(*arguments):
  with binaries.no_flags_set():
    flags.FLAGS(['train', '--output_dir=x', *arguments])
    return method_flag.chosen()


def test_the_baseline_unless_another_is_given():
  assert chosen() == methods.BASELINE.name
  assert chosen('--method=lbgm_shared', '--lbgm_threshold=0.3') == 'lbgm_shared'


def test_refuses_the_settings_of_others():
  with pytest.raises(app.UsageError, match='--lbgm_threshold has no effect with apf; it belongs'):
    chosen('--method=apf', '--lbgm_threshold=0.2')


def test_refuses_what_is_no_method():
  with pytest.raises(settings.SettingError, match="method must be one of fed_avg, .*found 'sgd'"):
    chosen('--method=sgd')


def test_help_names_all_methods():
  about = flags.FLAGS['method'].help
  assert all(name in about for name in methods.METHODS)
