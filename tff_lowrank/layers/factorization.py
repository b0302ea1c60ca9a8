"""Factorisations of kernels: the factors, their shapes, initialisation and composition.

A kernel K has its Keras shape, (*window, inputs, outputs); the window has zero to three sizes. A
low-rank term of rank R consists of x [outputs, R], y [inputs, R] and, in form 'tucker', t [R, R,
*window]; in form 'matrix' a convolution's y is [window x inputs, R]:
  matrix   K[i, o]      = sum_r  y[i, r] x[o, r]
  tucker   K[..., i, o] = sum_ab t[a, b, ...] x[o, a] y[i, b]
From such terms W1 = (t1, x1, y1) and W2 = (t2, x2, y2) are composed:
  Hadamard                   W1 * W2                 FedPara, Propositions 1 and 3
  Hadamard(tanh=True)        tanh(W1) * tanh(W2)     its supplement B; no bound on the rank
  Hadamard(personal=True)    W1 * (W2 + 1)           pFedPara; W2 stays at the client
  LowRank                    W1                      the plain baseline
  Adapter                    base + scale W1 * W2    LoHa: `base` is frozen, x2 starts at 0
  Adapter(product='plain')   base + scale W1         LoRA: `base` is frozen, x1 starts at 0
Hyeon-Woo, Ye-Bin, Oh: FedPara, ICLR 2022, arXiv 2108.06098, with `*` the Hadamard product there.
LoHa: Yeh et al.: Navigating Text-To-Image Customization, ICLR 2024, arXiv 2309.14859. LoRA: Hu et
al., ICLR 2022, arXiv 2106.09685.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import ranks

INITIALIZATIONS = ('balanced', 'he_fan_out', 'he_fan_in')
PRODUCTS = ('hadamard', 'plain')

# Initial standard deviation of pFedPara's W2: small, so that W is nearly W1.
PERSONAL_STDDEV = 0.1

BASE = 'base'
_PERSONAL = 'personal_'

Shape = Sequence[int]
Factors = Mapping[str, tf.Tensor]


def is_personal(variable_name: str) -> bool:
  """Whether a weight of this name is a personal factor of pFedPara (a factor of W2)."""
  return _PERSONAL in variable_name.rpartition('/')[2]


def has_input_rows(factor_name: str) -> bool:
  """Whether the first axis of this factor is the axis of the kernel's inputs."""
  return factor_name == BASE or factor_name.removeprefix(_PERSONAL).startswith('y')


@dataclasses.dataclass(frozen=True)
class Factorization:
  """Settings of one factorised kernel.

  rank: R, at least 1.
  form: `'matrix'` or, for a convolution, `'tucker'`.
  initialization: `'balanced'` gives the composed kernel the variance of the kernel that it
    replaces, with equal factors. For parity with published code, with factors stored as there:
    `'he_fan_out'` (Flower's baseline), and `'he_fan_in'` (the official notebook), whose kernels
    are 25 to 120 times too small to train.
  """

  rank: int
  form: str = 'matrix'
  initialization: str = 'balanced'

  def __post_init__(self) -> None:
    checks.check_at_least('rank', self.rank, 1)
    checks.check_one_of('form', self.form, ranks.FORMS)
    checks.check_one_of('initialization', self.initialization, INITIALIZATIONS)

  @property
  def terms(self) -> tuple[str, ...]:
    """The suffixes of the low-rank terms' factors."""
    raise NotImplementedError

  @property
  def frozen(self) -> frozenset[str]:
    """The names of the factors that do not train."""
    return frozenset()

  def compose(self, factors: Factors) -> tf.Tensor:
    """Composes the kernel; in form 'matrix' a convolution's is [window x inputs, outputs].

    `factors` are those of `shapes`. Factors whose first axis is the inputs may have only some rows;
    then only these rows of the kernel are composed.
    """
    raise NotImplementedError

  def term_variances(self, variance: float) -> tuple[float, ...]:
    """The variance of each term's entries such that the kernel's is `variance`."""
    raise NotImplementedError

  def factor_name(self, letter: str, term: str) -> str:
    """The name of a factor: its letter and the suffix of its term."""
    return letter + term

  def shapes(self, kernel_shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of each factor, by name, in the order of the weights."""
    ranks.check_kernel(kernel_shape, self.form)
    *window, inputs, outputs = kernel_shape
    if self.form == 'tucker':
      one = {'t': (self.rank, self.rank, *window)}
    else:
      one, inputs = {}, inputs * math.prod(window)
    one |= {'x': (outputs, self.rank), 'y': (inputs, self.rank)}
    return {self.factor_name(k, term): shape for term in self.terms for k, shape in one.items()}

  def stddevs(self, kernel_shape: Shape, variance: float) -> dict[str, float]:
    """The initial standard deviation of each factor, by name.

    variance: the variance of the kernel's entries, for the balanced initialisation: with factors
      of standard deviation s, a matrix term has variance R s^4, a Tucker term R^2 s^6.
    """
    result = {}
    for term, term_variance in zip(self.terms, self.term_variances(variance), strict=True):
      for letter, stddev in self._term_stddevs(kernel_shape, term_variance).items():
        result[self.factor_name(letter, term)] = stddev
    return result

  def _term_stddevs(self, kernel_shape: Shape, variance: float) -> dict[str, float]:
    *window, inputs, outputs = kernel_shape
    rank, tucker = self.rank, self.form == 'tucker'
    if self.initialization == 'balanced':
      each = (variance / rank**2) ** (1 / 6) if tucker else (variance / rank) ** (1 / 4)
      return dict(t=each, x=each, y=each) if tucker else dict(x=each, y=each)
    # He et al. for the factors as stored there: Flower's matrices are [size, R]; for a Tucker term
    # the notebook's are [R, size] and Flower's [R, size, 1, 1].
    by_size = tucker == (self.initialization == 'he_fan_in')
    sizes = (outputs, inputs if tucker else inputs * math.prod(window))
    x, y = (math.sqrt(2 / (size if by_size else rank)) for size in sizes)
    core = dict(t=math.sqrt(2 / (rank * math.prod(window)))) if tucker else {}
    return core | dict(x=x, y=y)

  def _term(self, factors: Factors, term: str) -> tf.Tensor:
    """One low-rank term, in the layout of `compose`."""
    x, y = factors[self.factor_name('x', term)], factors[self.factor_name('y', term)]
    if self.form == 'matrix':
      return tf.matmul(y, x, transpose_b=True)
    t = factors[self.factor_name('t', term)]
    # The smaller intermediate first: [a, b, *window] with x, then with y.
    half = tf.einsum('ab...,oa->...bo', t, x)
    return tf.einsum('...bo,ib->...io', half, y)


@dataclasses.dataclass(frozen=True)
class Hadamard(Factorization):
  """FedPara's kernel W1 * W2, with rank up to R^2.

  personal: pFedPara's W1 * (W2 + 1), with rank up to R (R + 1); the factors of W2 are personal.
  tanh: applies tanh to W1 and W2 first.
  """

  personal: bool = False
  tanh: bool = False

  @property
  def terms(self) -> tuple[str, ...]:
    return ('1', '2')

  def factor_name(self, letter: str, term: str) -> str:
    prefix = _PERSONAL if self.personal and term == '2' else ''
    return prefix + letter + term

  def compose(self, factors: Factors) -> tf.Tensor:
    first, second = (self._term(factors, term) for term in self.terms)
    if self.tanh:
      first, second = tf.tanh(first), tf.tanh(second)
    return first * (second + 1) if self.personal else first * second

  def term_variances(self, variance: float) -> tuple[float, float]:
    root = math.sqrt(variance)
    first, second = (variance, PERSONAL_STDDEV**2) if self.personal else (root, root)
    if self.tanh:
      return _variance_before_tanh(first), _variance_before_tanh(second)
    return first, second


def _variance_before_tanh(variance: float) -> float:
  """The variance of a centred normal variable whose tanh has this variance, at most 0.9."""
  points, weights = np.polynomial.hermite_e.hermegauss(99)
  weights = weights / weights.sum()
  low, high = 0.0, 100.0
  for _ in range(60):
    middle = (low + high) / 2
    if weights @ np.tanh(math.sqrt(middle) * points) ** 2 < min(variance, 0.9):
      low = middle
    else:
      high = middle
  return high


@dataclasses.dataclass(frozen=True)
class LowRank(Factorization):
  """A plain low-rank kernel: a matrix of rank R, or a Tucker-2 tensor with ranks (R, R)."""

  @property
  def terms(self) -> tuple[str, ...]:
    return ('1',)

  def compose(self, factors: Factors) -> tf.Tensor:
    return self._term(factors, '1')

  def term_variances(self, variance: float) -> tuple[float]:
    return (variance,)


@dataclasses.dataclass(frozen=True)
class Adapter(Factorization):
  """A frozen kernel `base` plus `scale` times a product of factors, which is 0 at the start.

  product: `'hadamard'`, FedPara's W1 * W2, as in LoHa, or `'plain'`, W1, as in LoRA.
  one_factor: whether only the factor that starts at 0 is trained. The kernel is then linear in
    what is trained.

  Only x2, or x1, starts at zero: it gets a gradient from the first step on, the other factors from
  the second. These are initialised as FedPara's; with larger values, as in LoHa, plain SGD
  diverges.
  """

  scale: float = 1.0
  product: str = 'hadamard'
  one_factor: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.check_one_of('product', self.product, PRODUCTS)
    checks.check_type('one_factor', self.one_factor, bool)

  @property
  def terms(self) -> tuple[str, ...]:
    return ('1', '2') if self.product == 'hadamard' else ('1',)

  @property
  def _zero(self) -> str:
    """The name of the factor that starts at zero."""
    return self.factor_name('x', self.terms[-1])

  @property
  def frozen(self) -> frozenset[str]:
    factors = {self.factor_name(letter, term) for letter in 'txy' for term in self.terms}
    return frozenset({BASE} | (factors - {self._zero} if self.one_factor else set()))

  def shapes(self, kernel_shape: Shape) -> dict[str, tuple[int, ...]]:
    matrix = (math.prod(kernel_shape[:-1]), kernel_shape[-1])
    base = matrix if self.form == 'matrix' else tuple(kernel_shape)
    return {BASE: base} | super().shapes(kernel_shape)

  def compose(self, factors: Factors) -> tf.Tensor:
    product = self.scale * self._term(factors, self.terms[0])
    for term in self.terms[1:]:
      product *= self._term(factors, term)
    return factors[BASE] + product

  def term_variances(self, variance: float) -> tuple[float, ...]:
    return (variance ** (1 / len(self.terms)),) * len(self.terms)

  def stddevs(self, kernel_shape: Shape, variance: float) -> dict[str, float]:
    return super().stddevs(kernel_shape, variance) | {BASE: math.sqrt(variance), self._zero: 0.0}
