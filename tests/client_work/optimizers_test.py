import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.client_work import optimizers


def test_tff_s_own_need_no_autograph():
  for build in (tff.learning.optimizers.build_adam, tff.learning.optimizers.build_sgdm):
    assert optimizers.is_plain(build(0.1))


def test_one_that_calls_a_function_of_the_user_may():
  scheduled = tff.learning.optimizers.schedule_learning_rate(
    tff.learning.optimizers.build_sgdm(0.1), lambda step: 0.1
  )
  assert not optimizers.is_plain(scheduled)
  assert optimizers.without_autograph(scheduled) is scheduled


def test_the_same_optimizer():
  optimizer = tff.learning.optimizers.build_sgdm(0.1, momentum=0.9)
  plain = optimizers.without_autograph(optimizer)

  @tf.function
  def steps(optimizer):
    weights, gradients = [tf.constant([1.0, 2.0])], [tf.constant([0.5, -1.0])]
    state = optimizer.initialize([tf.TensorSpec([2])])
    for _ in range(2):
      state, weights = optimizer.next(state, weights, gradients)
    return weights[0], optimizer.get_hparams(optimizer.set_hparams(state, {'learning_rate': 0.3}))

  (expected, hparams), (found, found_hparams) = steps(optimizer), steps(plain)
  assert expected.numpy().tolist() == found.numpy().tolist()
  assert dict(hparams) == dict(found_hparams)
