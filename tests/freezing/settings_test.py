import pytest

from tff_lowrank import freezing


def test_defaults_are_the_papers():
  settings = freezing.Settings()
  assert (settings.stability_threshold, settings.ema_decay) == (0.05, 0.99)
  assert (settings.check_every, settings.control, settings.granularity) == (1, 'aimd', 'scalar')
  assert (settings.zero_update, settings.aggressive) == ('unstable', 'none')


@pytest.mark.parametrize(
  'wrong, error, message',
  [
    (dict(stability_threshold=-0.1), ValueError, '`stability_threshold` must be finite'),
    (dict(stability_threshold=float('nan')), ValueError, '`stability_threshold` must be finite'),
    (dict(stability_threshold='0.1'), TypeError, '`stability_threshold`'),
    (dict(check_every=0), ValueError, '`check_every` must be at least 1, found 0'),
    (dict(ema_decay=1), ValueError, '`ema_decay` must be below 1'),
    (dict(ema_decay=-0.5), ValueError, '`ema_decay`'),
    (dict(window=0), ValueError, '`window` must be at least 1'),
    (dict(control='tcp'), ValueError, "`control` must be one of 'aimd', .*, found 'tcp'"),
    (dict(aggressive=True), ValueError, '`aggressive` must be one of'),
    (dict(granularity='layer'), ValueError, '`granularity` must be one of'),
    (dict(zero_update='zero'), ValueError, '`zero_update` must be one of'),
    (dict(threshold_floor=0.1), ValueError, '`threshold_floor` must be in .0, 0.05., found 0.1'),
    (dict(seed=-1), ValueError, '`seed`'),
    (dict(stability_threshold=0, aggressive='one_round'), ValueError, "is 'one_round'"),
  ],
)
def test_refuses_impossible_settings(wrong, error, message):
  with pytest.raises(error, match=message):
    freezing.Settings(**wrong)
