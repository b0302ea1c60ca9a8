"""Compares TFF's algorithms and aggregators in TFF's stock context and in the local context.

  python -m benchmarks.equality --only=fed_avg,aggregators --output=DIR/equality.md

Each case runs two rounds on the same inputs in each context. The table gives the largest
difference over all numbers returned (states, results and metrics) from the stock context; NaN
equals NaN, and integers, strings, shapes, types and containers must be the same. The clients of
the learning algorithms have 7, 4, 10 and 3 examples in batches of 3, and one shuffles. For random
cases only shapes and types are compared. If the stock context raises, as it does for secure sums,
TFF's own test context is used instead. The exit status is 1 if a case fails.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

from absl import app
from absl import flags
import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import execution

_ONLY = flags.DEFINE_list('only', [], 'Substrings of the names of the cases to run; all if empty.')
_OUTPUT = flags.DEFINE_string('output', None, 'File to write the table to.')

ROUNDS = 2
TOLERANCE = 1e-4
COMPILE_MODES = ('tensorflow', 'xla', 'auto')
EXAMPLES = (7, 4, 10, 3)
BATCH = 3
FEATURES = 4
WORDS = (['cat', 'dog', 'cat'], ['dog'], ['emu', 'dog', 'fox', 'cat'], ['emu', 'emu'])

agg = tff.aggregators
algorithms = tff.learning.algorithms
hitters = tff.analytics.heavy_hitters.iblt
metrics = tff.learning.metrics
models = tff.learning.models
optimizers = tff.learning.optimizers

Run = Callable[[], Any]
Leaves = list[tuple[str, np.ndarray]]


class Case(NamedTuple):
  """`build` returns the function to run in each context; values of random cases may differ."""

  build: Callable[[], Run]
  is_random: bool
  note: str


CASES: dict[str, Case] = {}


def add(name: str, build: Callable[[], Run], random: bool = False, note: str = '') -> None:
  """Registers a case."""
  assert name not in CASES, name
  CASES[name] = Case(build, random, note)


def case(name: str, random: bool = False, note: str = '') -> Callable[[Any], Any]:
  """Registers the decorated function as the `build` of a case."""
  return lambda build: add(name, build, random, note) or build


# Comparison.


def _leaves(value: Any, path: str = '') -> Leaves:
  """All leaves except times, each with its path, which names the containers."""
  path = f'{path}:{type(value).__name__}'
  if isinstance(value, tff.structure.Struct):
    children = tff.structure.to_elements(value)
  elif isinstance(value, Mapping):
    children = value.items()
  elif attrs.has(type(value)):
    children = attrs.asdict(value, recurse=False).items()
  elif isinstance(value, tuple) and hasattr(value, '_asdict'):
    children = value._asdict().items()
  elif isinstance(value, (list, tuple)):
    children = enumerate(value)
  elif isinstance(value, tf.data.Dataset):
    path = f'{path.rpartition(":")[0]}:{value.element_spec}'
    children = enumerate(value.as_numpy_iterator())
  else:
    return [(path.rpartition(':')[0], np.asarray(value))]
  children = [(name, child) for name, child in children if name != 'round_timestamp']
  below = [leaf for name, child in children for leaf in _leaves(child, f'{path}.{name}')]
  return [(path, np.zeros(0)), *below]


def _dtype(array: np.ndarray) -> str:
  return 'string' if array.dtype.kind in 'OSU' else array.dtype.name


def _text(array: np.ndarray) -> list[bytes]:
  return [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]


def _difference(expected: Leaves, found: Leaves, is_random: bool) -> float:
  """The largest difference; raises ValueError if it is too large."""
  largest = 0.0
  for (path, a), (other, b) in zip(expected, found, strict=False):
    if path != other or _dtype(a) != _dtype(b) or a.shape != b.shape:
      raise ValueError(f'{path} {_dtype(a)}{a.shape} became {other} {_dtype(b)}{b.shape}')
    if is_random or not a.size:
      continue
    message = f'{path} became {str(b)[:200]} in place of {str(a)[:200]}'
    if a.dtype.kind not in 'fcV':
      if _text(a) != _text(b):
        raise ValueError(message)
      continue
    kind = np.complex128 if a.dtype.kind == 'c' else np.float64
    a, b = a.astype(kind), b.astype(kind)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid='ignore'):
      gap = np.where(same, 0, np.abs(a - b))
    scale = np.where(np.isfinite(a), np.maximum(1, np.abs(a)), 1)
    if not np.all(gap <= TOLERANCE * scale):
      raise ValueError(f'{message}: off by {np.max(gap)}')
    largest = max(largest, float(np.max(gap)))
  if len(expected) != len(found):
    raise ValueError(f'{len(found)} values and containers in place of {len(expected)}')
  return largest


# Inputs.


def _dataset(client: int, *components: Any, batch_size: int | None = BATCH) -> tf.data.Dataset:
  """A client's data set; that of client 2 shuffles."""
  dataset = tf.data.Dataset.from_tensor_slices(
    components[0] if len(components) == 1 else components
  )
  if client == 2:
    dataset = dataset.shuffle(10, seed=1)
  return dataset if batch_size is None else dataset.batch(batch_size)


def _classification(batch_size: int | None = BATCH) -> list[tf.data.Dataset]:
  rng = np.random.default_rng(0)
  return [
    _dataset(
      client,
      rng.normal(size=(count, FEATURES)).astype(np.float32),
      rng.integers(0, 3, count).astype(np.int32),
      batch_size=batch_size,
    )
    for client, count in enumerate(EXAMPLES)
  ]


def _points() -> list[tf.data.Dataset]:
  rng = np.random.default_rng(1)
  points = [rng.normal(size=(n, 2)).astype(np.float32) for n in EXAMPLES]
  return [_dataset(client, x, batch_size=None) for client, x in enumerate(points)]


def _words() -> list[tf.data.Dataset]:
  return [_dataset(i, words, batch_size=None) for i, words in enumerate(WORDS)]


def _vectors() -> list[Any]:
  rng = np.random.default_rng(2)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return [collections.OrderedDict(a=normal(5), b=normal(2, 2)) for _ in EXAMPLES]


NUMBERS = [7, 4, 10, 3]
WEIGHTS = [np.float32(n / 4) for n in NUMBERS]
INTEGERS = [np.array([i, -2 * i, 7], np.int32) for i in range(4)]
KEYS = [[0, 4], [1, 1], [3, 2], [2, 0]]
TABLE = np.arange(10, dtype=np.float32).reshape(5, 2)
NESTED = [collections.OrderedDict(a=i, b=[(), i / 3]) for i in range(4)]
VECTOR_SPEC = collections.OrderedDict(a=tf.TensorSpec([5]), b=tf.TensorSpec([2, 2]))
BATCH_SPEC = _classification()[0].element_spec
VECTOR = tff.types.tensorflow_to_type(VECTOR_SPEC)
INTEGER = tff.TensorType(np.int32, [3])
BATCHES = tff.SequenceType(tff.types.tensorflow_to_type(BATCH_SPEC))


def _process(
  make: Callable[[], Any], *inputs: Any, view: Callable[[Any], Any] = lambda x: x
) -> Run:
  """Runs an iterative process; functions among the inputs are called for each run."""
  process = make()

  def run() -> list[Any]:
    state = process.initialize()
    outputs = [view(state)]
    arguments = [x() if callable(x) else x for x in inputs]
    for _ in range(ROUNDS):
      output = process.next(state, *arguments)
      is_estimate = isinstance(process, tff.templates.EstimationProcess)
      state = output if is_estimate else output.state if hasattr(output, 'state') else output[0]
      outputs.append([output, process.report(state)] if is_estimate else view(output))
    return outputs

  return run


def _repeat(make: Callable[[], Any], *inputs: Any, view: Any = lambda x: x) -> Run:
  """Runs a computation; functions among the inputs are called for each run."""
  computation = make()
  arguments = lambda: [x() if callable(x) else x for x in inputs]  # noqa: E731
  return lambda: [view(computation(*arguments())) for _ in range(ROUNDS)]


def _sort(value: Any) -> Any:
  return tf.nest.map_structure(lambda leaf: np.sort(leaf, axis=None), value)


# Learning.


def _dense(units: int, seed: int, activation: str | None = None) -> tf.keras.layers.Layer:
  initializer = tf.keras.initializers.GlorotUniform(seed=seed)
  return tf.keras.layers.Dense(units, activation, kernel_initializer=initializer)


def _keras_model() -> tf.keras.Sequential:
  layers = [tf.keras.layers.InputLayer((FEATURES,)), _dense(5, 1, 'relu'), _dense(3, 2)]
  return tf.keras.Sequential(layers)


def _loss() -> tf.keras.losses.Loss:
  return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _variable_model() -> models.VariableModel:
  """With TFF's own metrics (examples, batches, loss) and the accuracy."""
  accuracy = tf.keras.metrics.SparseCategoricalAccuracy()
  return models.from_keras_model(
    _keras_model(), loss=_loss(), input_spec=BATCH_SPEC, metrics=[accuracy]
  )


def _functional_model() -> models.FunctionalModel:
  metrics_fn = lambda: collections.OrderedDict(  # noqa: E731
    loss=tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    accuracy=tf.keras.metrics.SparseCategoricalAccuracy(),
    examples=metrics.NumExamplesCounter(),
  )
  return models.functional_model_from_keras(_keras_model(), _loss(), BATCH_SPEC, metrics_fn)


def _reconstruction_model() -> models.ReconstructionModel:
  model = _keras_model()
  return models.ReconstructionModel.from_keras_model_and_layers(
    keras_model=model,
    global_layers=model.layers[:1],
    local_layers=model.layers[1:],
    input_spec=BATCH_SPEC,
  )


MODELS = {'variable': lambda: _variable_model, 'functional': _functional_model}
SGDM = optimizers.build_sgdm(0.1, momentum=0.9)
ADAM = optimizers.build_adam(0.01)


def _add_learning(name: str, make: Callable[..., Any], models_: Any = MODELS, **kwargs) -> None:
  """Adds a case for each kind of model; `make` returns the process for a model."""
  for kind in models_:
    process = functools.partial(lambda kind: make(MODELS[kind]()), kind)
    add(f'{name}, {kind} model', functools.partial(_process, process, _classification), **kwargs)


def _text_of(settings: Mapping[str, Any]) -> str:
  return ', '.join(f'{k}={getattr(v, "__name__", v)}' for k, v in settings.items())


def _add_fed_avg(name: str, make: Callable[[], Any], model: str = 'variable', **kwargs) -> None:
  """Adds a case of federated averaging; `make` returns the settings."""

  def build(model: Any) -> Any:
    settings = {'client_optimizer_fn': SGDM, **make()}
    aggregator = settings.get('model_aggregator')
    is_unweighted = isinstance(aggregator, agg.UnweightedAggregationFactory)
    return (_unweighted if is_unweighted else _weighted)(model, **settings)

  _add_learning(f'fed_avg, {name}', build, [model], **kwargs)


def _rate(round_number: Any) -> Any:
  return 0.1 / (1.0 + tf.cast(round_number, tf.float32))


_weighted, _unweighted = algorithms.build_weighted_fed_avg, algorithms.build_unweighted_fed_avg
_add_learning('fed_avg weighted, SGDM', lambda m: _weighted(m, SGDM, SGDM))
_add_learning('fed_avg weighted, Adam', lambda m: _weighted(m, ADAM, ADAM))
_add_learning('fed_avg unweighted, SGDM', lambda m: _unweighted(m, SGDM, ADAM))
_schedule = algorithms.build_weighted_fed_avg_with_optimizer_schedule
_add_learning('fed_avg schedule', lambda m: _schedule(m, _rate, optimizers.build_sgdm))
_add_learning('fed_prox weighted', lambda m: algorithms.build_weighted_fed_prox(m, 0.5, SGDM))
_add_learning('fed_prox unweighted', lambda m: algorithms.build_unweighted_fed_prox(m, 0.5, ADAM))
_add_learning('fed_sgd', algorithms.build_fed_sgd)
_add_learning('mime_lite weighted', lambda m: algorithms.build_weighted_mime_lite(m, SGDM))
_add_learning('mime_lite unweighted', lambda m: algorithms.build_unweighted_mime_lite(m, ADAM))
_mime_schedule = algorithms.build_mime_lite_with_optimizer_schedule
_add_learning('mime_lite schedule', lambda m: _mime_schedule(m, _rate, SGDM))
_add_learning('fed_eval', algorithms.build_fed_eval)

for _name in ('adagrad', 'adamw', 'rmsprop', 'yogi'):
  _optimizer = getattr(optimizers, f'build_{_name}')(0.01)
  _add_fed_avg(_name, lambda o=_optimizer: dict(client_optimizer_fn=o), 'functional')
_add_fed_avg(
  'adafactor',
  lambda: dict(client_optimizer_fn=optimizers.build_adafactor(learning_rate=0.01)),
  'functional',
)
_iterator = tff.learning.LoopImplementation.DATASET_ITERATOR
_add_fed_avg('iterator loop', lambda: dict(loop_implementation=_iterator))
_uniform_weights = tff.learning.ClientWeighting.UNIFORM
_add_fed_avg('uniform weights', lambda: dict(client_weighting=_uniform_weights))
_secure_metrics = metrics.secure_sum_then_finalize
_add_fed_avg('secure metrics', lambda: dict(metrics_aggregator=_secure_metrics))
_sampled = metrics.finalize_then_sample
_add_fed_avg('sampled metrics', lambda: dict(metrics_aggregator=_sampled), random=True)
for _name, _settings, _is_random in [
  ('robust', dict(), False),
  ('robust', dict(debug_measurements_fn=tff.learning.add_debug_measurements), False),
  ('secure', dict(), False),
  ('compression', dict(), False),
  ('dp', dict(noise_multiplier=0.0, clients_per_round=4), False),
  ('dp', dict(noise_multiplier=0.1, clients_per_round=4), True),
  ('ddp_secure', dict(noise_multiplier=0.0, expected_clients_per_round=4), True),
  ('ddp_secure', dict(noise_multiplier=0.1, expected_clients_per_round=4), True),
]:
  _add_fed_avg(
    f'{_name}_aggregator({_text_of(_settings)})',
    lambda name=_name, settings=_settings: dict(
      model_aggregator=getattr(tff.learning, f'{name}_aggregator')(**settings)
    ),
    random=_is_random,
  )
_kmeans = functools.partial(algorithms.build_fed_kmeans, 3, (2,), random_seed=(1, 2))
add('fed_kmeans', lambda: _process(_kmeans, _points))
for _name, _split in itertools.product(('fed_recon', 'fed_recon_eval'), (False, True)):
  _make = functools.partial(
    getattr(algorithms, f'build_{_name}'),
    _reconstruction_model,
    loss_fn=_loss,
    metrics_fn=lambda: [metrics.NumExamplesCounter(), metrics.NumBatchesCounter()],
    dataset_split_fn=models.ReconstructionModel.build_dataset_split_fn(
      recon_epochs=2, split_dataset=_split
    ),
  )
  _build = functools.partial(_process, _make, _classification)
  add(f'{_name}, {"split" if _split else "whole"} data', _build)


@tf.function
def _evaluate(model: Any, data: tf.data.Dataset) -> Any:
  forward = lambda loss, batch: loss + model.forward_pass(batch, training=False).loss  # noqa: E731
  return collections.OrderedDict(loss=data.batch(BATCH).reduce(0.0, forward))


@tf.function
def _personalize(model: Any, train: tf.data.Dataset, test: tf.data.Dataset) -> Any:
  for batch in train.batch(BATCH):
    with tf.GradientTape() as tape:
      loss = model.forward_pass(batch).loss
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
      variable.assign_sub(0.1 * gradient)
  return _evaluate(model, test)


@case('personalization_eval', note='metrics of clients sorted')
def _personalization_eval() -> Run:
  computation = algorithms.build_personalization_eval_computation(
    _variable_model, collections.OrderedDict(sgd=lambda: _personalize), _evaluate
  )
  weights = models.ModelWeights.from_model(_variable_model())

  def run() -> Any:
    data = _classification(batch_size=None)
    clients = [collections.OrderedDict(train_data=d, test_data=d) for d in data]
    return _sort(computation(weights, clients))

  return run


# Aggregators.


def _add_aggregator(name: str, make: Callable[[], Any], type_: Any = VECTOR, **kwargs) -> None:
  """Adds a case for an aggregator; `view` picks what to compare."""
  view = kwargs.pop('view', lambda x: x)

  def build() -> Run:
    factory = make()
    if isinstance(factory, tff.templates.EstimationProcess):
      return _process(lambda: factory, WEIGHTS)
    inputs, types = [INTEGERS if type_ is INTEGER else _vectors], [type_]
    if isinstance(factory, agg.WeightedAggregationFactory):
      inputs, types = [*inputs, WEIGHTS], [type_, tff.TensorType(np.float32)]
    return _process(lambda: factory.create(*types), *inputs, view=view)

  add(f'aggregators {name}', build, **kwargs)


def _largest_weight(value: Any, weight: Any) -> Any:
  return collections.OrderedDict(largest=tff.federated_max(weight))


_quantile = functools.partial(agg.PrivateQuantileEstimationProcess.no_noise, 1.0, 0.5, 0.3)
_dp = agg.DifferentiallyPrivateFactory
_discrete = functools.partial(agg.discretization.DiscretizationFactory, agg.SumFactory(), 100.0)
_quantized = functools.partial(agg.EncodedSumFactory.quantize_above_threshold, 8, 1)
_clip_modular = agg.modular_clipping.ModularClippingSumFactory
_sample = agg.UnweightedReservoirSamplingFactory
_hadamard, _modular = agg.HadamardTransformFactory, agg.SecureModularSumFactory
_sum, _mean = agg.SumFactory(), agg.MeanFactory()
_mixed = tff.learning.add_debug_measurements_with_mixed_dtype
_time_seed = dict(
  view=lambda output: getattr(output, 'result', None), note='results only: seeded by the time'
)
_add_aggregator('SumFactory', lambda: _sum)
_add_aggregator('SumFactory of integers', lambda: _sum, INTEGER)
_add_aggregator('MeanFactory', lambda: _mean)
_add_aggregator('MeanFactory no_nan_division', lambda: agg.MeanFactory(no_nan_division=True))
_add_aggregator('UnweightedMeanFactory', agg.UnweightedMeanFactory)
_add_aggregator('as_weighted_aggregator', lambda: agg.as_weighted_aggregator(_sum))
_add_aggregator('clipping_factory fixed', lambda: agg.clipping_factory(1.0, _mean))
_add_aggregator('clipping_factory quantile', lambda: agg.clipping_factory(_quantile(), _sum))
_add_aggregator('zeroing_factory fixed', lambda: agg.zeroing_factory(1.5, _mean))
_add_aggregator('zeroing_factory quantile', lambda: agg.zeroing_factory(_quantile(), _sum, 2.0))
_add_aggregator('PrivateQuantileEstimationProcess', _quantile)
_add_aggregator('SecureSumFactory fixed', lambda: agg.SecureSumFactory(2.0, -2.0))
_add_aggregator('SecureSumFactory quantile', lambda: agg.SecureSumFactory(_quantile()))
_add_aggregator('SecureSumFactory of integers', lambda: agg.SecureSumFactory(5, -5), INTEGER)
_add_aggregator('SecureModularSumFactory', lambda: _modular(16), INTEGER)
_add_aggregator('SecureModularSumFactory symmetric', lambda: _modular(16, True), INTEGER)
_add_aggregator('ModularClippingSumFactory', lambda: _clip_modular(-3, 4), INTEGER)
_add_aggregator('DifferentiallyPrivate fixed, noise 0', lambda: _dp.gaussian_fixed(0.0, 4, 1.0))
_add_aggregator(
  'DifferentiallyPrivate adaptive, noise 0',
  lambda: _dp.gaussian_adaptive(0.0, 4, clipped_count_stddev=0.0),
)
_add_aggregator('DifferentiallyPrivate fixed', lambda: _dp.gaussian_fixed(1.0, 4, 1.0), random=True)
_add_aggregator(
  'DifferentiallyPrivate adaptive', lambda: _dp.gaussian_adaptive(1.0, 100), random=True
)
_add_aggregator(
  'DifferentiallyPrivate tree_aggregation, seeded',
  lambda: _dp.tree_aggregation(1.0, 4, 1.0, VECTOR_SPEC, noise_seed=1),
)
_add_aggregator(
  'DifferentiallyPrivate tree_adaptive',
  lambda: _dp.tree_adaptive(0.1, 4, VECTOR_SPEC, noise_seed=1),
  random=True,
)
_add_aggregator('DiscretizationFactory deterministic', _discrete)
_add_aggregator('DiscretizationFactory stochastic', lambda: _discrete(stochastic=True), random=True)
_add_aggregator('EncodedSumFactory identity', agg.EncodedSumFactory.quantize_above_threshold)
_add_aggregator('EncodedSumFactory deterministic', lambda: _quantized(stochastic=False))
_add_aggregator('EncodedSumFactory stochastic', _quantized, random=True)
_add_aggregator('HadamardTransformFactory', _hadamard, **_time_seed)
_add_aggregator(
  'DiscreteFourierTransformFactory', agg.DiscreteFourierTransformFactory, **_time_seed
)
_add_aggregator('UnweightedReservoirSamplingFactory', lambda: _sample(2), random=True)
_add_aggregator(
  'UnweightedReservoirSamplingFactory metadata', lambda: _sample(3, True), random=True
)
_add_aggregator(
  'add_measurements',
  lambda: agg.add_measurements(_mean, client_measurement_fn=_largest_weight),
)
_add_aggregator('add_debug_measurements', lambda: tff.learning.add_debug_measurements(_mean))
_add_aggregator('add_debug_measurements_with_mixed_dtype', lambda: _mixed(_mean))
_add_aggregator('concat_factory', lambda: agg.concat_factory(_mean))
_add_aggregator('concat_factory Hadamard', lambda: agg.concat_factory(_hadamard()), **_time_seed)


# Analytics.


def _at_clients(type_: Any, function: Callable[[Any], Any]) -> Any:
  """Maps a TensorFlow function over clients, and returns the values."""
  on_client = tff.tensorflow.computation(lambda x: function(x), type_)
  return _at(lambda x: tff.federated_map(on_client, x), type_)


def _at(function: Callable[[Any], Any], type_: Any = INTEGER, place: Any = tff.CLIENTS) -> Any:
  """A federated computation with one argument."""
  return tff.federated_computation(function, tff.FederatedType(type_, place))


def _add_repeated(name: str, make: Callable[[], Any], *inputs: Any, **kwargs) -> None:
  view = kwargs.pop('view', lambda x: x)
  add(name, lambda: _repeat(make, *inputs, view=view), **kwargs)


def _batched_words(size: int) -> list[tf.data.Dataset]:
  return [d.batch(size) for d in _words()]


_unordered = dict(view=_sort, note='sorted: the order is random')
_distinct = tff.analytics.count_distinct.create_federated_hyperloglog_computation
_add_repeated('analytics hyperloglog', _distinct, _words)
_add_repeated('analytics hyperloglog secure', lambda: _distinct(use_secagg=True), _words)
for _settings in (
  dict(),
  dict(secure_sum_bitwidth=32),
  dict(max_words_per_user=2, max_heavy_hitters=9, k_anonymity=2),
  dict(multi_contribution=False, batch_size=2),
):
  _make = functools.partial(
    hitters.build_iblt_computation, capacity=20, string_max_bytes=5, seed=1, **_settings
  )
  _batched = functools.partial(_batched_words, _settings.get('batch_size', 1))
  _name = f'analytics iblt heavy hitters({_text_of(_settings)})'
  _add_repeated(_name, _make, _batched, **_unordered)


@case('analytics IbltFactory', note=_unordered['note'])
def _iblt_factory() -> Run:
  type_ = collections.OrderedDict(key=np.str_, value=tff.TensorType(np.int64, [2]))
  factory = tff.analytics.IbltFactory(capacity=20, string_max_bytes=5, repetitions=3)
  pairs = lambda words: collections.OrderedDict(  # noqa: E731
    key=words, value=np.arange(2 * len(words)).reshape(-1, 2)
  )
  values = lambda: [tf.data.Dataset.from_tensor_slices(pairs(words)) for words in WORDS]  # noqa: E731
  view = lambda output: _sort(getattr(output, 'result', ()))  # noqa: E731
  return _process(lambda: factory.create(tff.SequenceType(type_)), values, view=view)


_first_column = lambda: [d.map(lambda x: x[0]) for d in _points()]  # noqa: E731
for _settings in (
  dict(clip_mechanism='distinct', max_records_per_user=10),
  dict(enable_secure_sum=False, arity=3),
  dict(dp_mechanism='central-gaussian', noise_multiplier=1.0),
  dict(dp_mechanism='distributed-discrete-gaussian', noise_multiplier=1.0),
):
  _make = functools.partial(
    tff.analytics.build_hierarchical_histogram_process, -2.0, 2.0, 4, **_settings
  )
  add(
    f'analytics hierarchical histogram({_text_of(_settings)})',
    functools.partial(_process, _make, _first_column),
    random='noise_multiplier' in _settings,
  )
for _name in ('get_all_elements', 'get_unique_elements', 'get_unique_elements_with_counts'):
  _type = tff.SequenceType(tff.TensorType(np.str_, [None]))
  _make = functools.partial(_at_clients, _type, getattr(tff.analytics.data_processing, _name))
  _add_repeated(f'analytics {_name}', _make, functools.partial(_batched_words, 2))


# Computations written here.


def _select(select: Callable[..., Any]) -> Any:
  """The rows that clients select, and their sum."""
  keys, table = tff.TensorType(np.int32, [2]), tff.TensorType(np.float32, [5, 2])
  row = tff.tensorflow.computation(lambda table, key: tf.gather(table, key), table, np.int32)

  @tff.federated_computation(
    tff.FederatedType(keys, tff.CLIENTS), tff.FederatedType(table, tff.SERVER)
  )
  def computation(keys, table):
    chosen = select(keys, tff.federated_value(5, tff.SERVER), table, row)
    total = tff.tensorflow.computation(
      lambda rows: rows.reduce(tf.zeros([2]), tf.add), chosen.type_signature.member
    )
    return chosen, tff.federated_sum(tff.federated_map(total, chosen))

  return computation


def _join() -> Any:
  """Joins the clients' strings, in their order."""
  join = tff.tensorflow.computation(lambda a, b: tf.strings.join([a, b]), np.str_, np.str_)
  report = tff.tensorflow.computation(lambda a: (a, tf.strings.length(a)), np.str_)
  return _at(lambda x: tff.federated_aggregate(x, '', join, join, report), np.str_)


def _server_sequence() -> Any:
  function = lambda d: d.map(lambda x, y: (2.0 * x, tf.strings.as_string(y))).skip(1)  # noqa: E731
  mapped = tff.tensorflow.computation(function, BATCHES)
  return _at(lambda x: tff.federated_map(mapped, x), BATCHES, tff.SERVER)


def _reduced_sequences() -> Any:
  type_ = tff.SequenceType(np.int32)
  add_one = tff.tensorflow.computation(lambda x: x + 1, np.int32)
  plus = tff.tensorflow.computation(lambda a, b: a + b, np.int32, np.int32)
  local = tff.federated_computation(
    lambda x: tff.sequence_reduce(tff.sequence_map(add_one, x), 0, plus), type_
  )
  return _at(lambda x: tff.federated_sum(tff.federated_map(local, x)), type_)


def _zipped() -> Any:
  as_float = tff.tensorflow.computation(lambda n: tf.cast(n, tf.float32), np.int32)
  return tff.federated_computation(
    lambda x, n, s: (
      tff.federated_mean(x, tff.federated_map(as_float, n)),
      tff.federated_zip((x, n, tff.federated_broadcast(s))),
    ),
    tff.FederatedType(VECTOR, tff.CLIENTS),
    tff.FederatedType(np.int32, tff.CLIENTS),
    tff.FederatedType(np.str_, tff.SERVER),
  )


def _empty() -> Any:
  nothing = tff.tensorflow.computation(lambda: ())
  dropped = tff.tensorflow.computation(lambda n: (), np.int32)
  return _at(
    lambda x: (
      tff.federated_eval(nothing, tff.SERVER),
      tff.federated_broadcast(tff.federated_value((), tff.SERVER)),
      tff.federated_sum(tff.federated_map(dropped, x)),
    ),
    np.int32,
  )


def _extremes(x: Any) -> Any:
  return tff.federated_min(x), tff.federated_max(x), tff.federated_sum(x)


def _casts() -> Any:
  dtypes = (tf.bfloat16, tf.float16, tf.complex64, tf.bool, tf.uint8)
  type_ = tff.TensorType(np.float64, [None])
  return tff.tensorflow.computation(lambda x: tuple(tf.cast(x, d) for d in dtypes), type_)


def _add_computation(name: str, make: Callable[[], Any], *inputs: Any, **kwargs) -> None:
  _add_repeated(f'computation {name}', make, *inputs, **kwargs)


_strings = ['', 'bE', 'c', 'dd']
_upper = lambda s: (tf.strings.upper(s), tf.strings.length(s))  # noqa: E731
_positive = [np.abs(v) for v in INTEGERS]
_nested = tff.to_type(collections.OrderedDict(a=np.int32, b=[(), np.float64]))
_modular_sum = tff.backends.mapreduce.federated_secure_modular_sum
_add_computation('federated_select', lambda: _select(tff.federated_select), KEYS, TABLE)
_add_computation('secure_select', lambda: _select(tff.federated_secure_select), KEYS, TABLE)
_add_computation('federated_aggregate of strings', _join, _strings)
_add_computation('strings', lambda: _at_clients(np.str_, _upper), _strings)
_add_computation('min, max, sum', lambda: _at(_extremes), INTEGERS)
_add_computation('mean, zip, broadcast', _zipped, _vectors, NUMBERS, 'text')
_add_computation('sum of no clients', lambda: _at(tff.federated_sum), [])
_add_computation('mean of no clients', lambda: _at(lambda x: tff.federated_mean(x), VECTOR), [])
_add_computation('nested, sum', lambda: _at(tff.federated_sum, _nested), NESTED)
_add_computation('nested, identity', lambda: _at(lambda x: x, _nested), NESTED)
_add_computation('empty structures', _empty, NUMBERS)
_add_computation('secure_sum', lambda: _at(lambda x: tff.federated_secure_sum(x, 40)), _positive)
_add_computation(
  'secure_sum_bitwidth', lambda: _at(lambda x: tff.federated_secure_sum_bitwidth(x, 6)), _positive
)
_add_computation('secure_modular_sum', lambda: _at(lambda x: _modular_sum(x, 7)), _positive)
_add_computation(
  'secure_quantized_sum',
  lambda: _at(lambda x: agg.secure_quantized_sum(x, -1.0, 1.0), VECTOR),
  _vectors,
)
_add_computation(
  'federated_sample',
  lambda: _at(lambda x: agg.federated_sample(x), np.float32),
  WEIGHTS,
  random=True,
)
_add_computation('sequence at the server', _server_sequence, lambda: _classification()[2])
_add_computation(
  'sequences at clients', lambda: _at_clients(BATCHES, lambda d: d.take(2)), _classification
)
_add_computation('sequences, identity', lambda: _at(lambda x: x, BATCHES), _classification)
_add_computation('sequence_reduce', _reduced_sequences, [[1, 2], [], [5], [7, 7, 7]])
_add_computation('casts', _casts, [0.5, 1.5, 3.0])
_swap = lambda: tff.federated_computation(lambda a, b: [b, a, (a,)], np.int32, np.str_)  # noqa: E731
_add_computation('lambda without placement', _swap, 3, 'x')


# Running.


def _attempt(run: Run, context: tff.framework.SyncContext) -> Leaves | Exception:
  """The result of `run`, or the exception it raises."""
  try:
    with tff.framework.get_context_stack().install(context):
      return _leaves(run())
  except Exception as e:
    return e


def _row(name: str, stock: Sequence[Any], local: Mapping[str, Any]) -> tuple[str, list[str]]:
  """A row of the table, and its failures."""
  this = CASES[name]
  notes = [this.note] if this.note else []
  try:
    run = this.build()
  except Exception as e:
    text = repr(e)[:100].replace('\\n', ' ')
    return f'| {name} | not compared: TFF cannot build it: {text} | | | |', []
  expected = _attempt(run, stock[0])
  if isinstance(expected, Exception):
    notes.append("TFF's test context: the stock one raises")
    expected = _attempt(run, stock[1])
  cells, failures = [], []
  for mode, context in local.items():
    found = _attempt(run, context)
    raised = [e for e in (expected, found) if isinstance(e, Exception)]
    cells.append('raises' if raised else 'FAILS')
    if len(raised) == 1:
      where = 'local' if raised[0] is found else 'stock'
      failures.append(f'{name} ({mode}): raises in the {where} context only: {raised[0]!r}')
    elif raised:
      notes = [f'{e!r}'[:100].replace('\n', ' ') for e in raised]
    else:
      try:
        difference = _difference(expected, found, this.is_random)
        cells[-1] = '-' if this.is_random else f'{difference:.1e}' if difference else '0'
      except ValueError as e:
        failures.append(f'{name} ({mode}): {e}')
  outcome = 'random: shapes and types equal' if this.is_random else 'equal'
  outcome = 'FAILS' if failures else 'raises in both' if 'raises' in cells else outcome
  return ' | '.join([f'| {name}', '; '.join([outcome, *notes]), *cells]) + ' |', failures


def main(argv: Sequence[str]) -> int:
  del argv
  chosen = [n for n in CASES if not _ONLY.value or any(part in n for part in _ONLY.value)]
  modes = ' | '.join(f'({mode})' for mode in COMPILE_MODES)
  lines = [f'| name | outcome | largest difference {modes} |', '|---' * 5 + '|']
  failures = []
  print('\n'.join(lines), flush=True)
  with execution.stock_context() as stock:
    stock = stock, tff.backends.test.create_sync_test_cpp_execution_context()
    local = {mode: execution.create_local_context(compile=mode) for mode in COMPILE_MODES}
    for name in chosen:
      line, failed = _row(name, stock, local)
      print(line, flush=True)
      lines.append(line)
      failures += failed
  lines += ['', *(f'- {failure}' for failure in failures)]
  print('\n'.join(lines[-len(failures) - 1 :]))
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text('\n'.join(lines) + '\n')
  return 1 if failures else 0


if __name__ == '__main__':
  app.run(main)
