"""Ranks and parameter counts of factorised kernels, without TensorFlow.

Hyeon-Woo, Ye-Bin, Oh: FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning, ICLR 2022, arXiv 2108.06098.

A kernel has its Keras shape, (*window, inputs, outputs): no window for a matrix, one to three sizes
for a convolution. It consists of `branches` low-rank terms, two for FedPara and one for the plain
low-rank baseline, each with rank R:
  form 'matrix'   R (m + n) numbers; m = outputs, n = inputs x window             Proposition 1
  form 'tucker'   R (O + I) + R^2 window numbers, for convolutions                Proposition 3
Only the area of the window matters, so both hold for convolutions with any number of axes. For
grouped convolutions see `kernel_view`.
FedPara's rank for a hyper-parameter gamma in [0, 1], equal for all layers:
  r_min = min(ceil(sqrt(m)), ceil(sqrt(n)))      the smallest rank with an unrestricted kernel rank
  r_max = the largest rank with no more parameters than the kernel
  r     = round((1 - gamma) r_min + gamma r_max)
The paper does not say how r_max and r are rounded; rounding r_max down, and r half to even, gives
its Table 5.
"""

from collections.abc import Sequence
import math

from tff_lowrank import checks

FORMS = ('matrix', 'tucker')

FEDPARA_BRANCHES = 2
LOW_RANK_BRANCHES = 1

DEPTHWISE_KERNEL = 'depthwise_kernel'


def check_kernel(kernel_shape: Sequence[int], form: str) -> None:
  """Raises ValueError unless `form` can factorise a kernel of this shape."""
  checks.check_one_of('form', form, FORMS)
  if not 2 <= len(kernel_shape) <= 5 or any(size < 1 for size in kernel_shape):
    raise ValueError(
      f'A kernel must have 2 to 5 axes of size at least 1, found shape {tuple(kernel_shape)}.'
    )
  if form == 'tucker' and len(kernel_shape) == 2:
    raise ValueError(
      f"Form 'tucker' needs a kernel with 3 to 5 axes, found shape {tuple(kernel_shape)}."
    )


def kernel_view(name: str, kernel_shape: Sequence[int]) -> tuple[int, ...]:
  """The shape in which the kernel of this name is factorised: the same numbers in the same order.

  A convolution with g groups has the kernel (*window, I / g, O): its outputs are g blocks, each of
  which gets I / g inputs. It is factorised unchanged, like that of a convolution from I / g inputs
  to O outputs. With R^2 >= min(I / g, O) >= min(I / g, O / g), the rank of each group's kernel, a
  slice of it, is not restricted either.

  A depthwise kernel (*window, I, M) is that of I groups with one input and M outputs each: the view
  is (*window, 1, I M). With one input, a Tucker form would not save anything. As a matrix
  [window, I M], FedPara has 2 R (window + I M) instead of window x I M numbers, and
  r_min = ceil(sqrt(min(window, I M))). For 3 x 3 this is 3, and it is smaller from 19 outputs on.
  """
  if name != DEPTHWISE_KERNEL:
    return tuple(kernel_shape)
  *window, inputs, multiplier = kernel_shape
  return (*window, 1, inputs * multiplier)


def _polynomial(kernel_shape: Sequence[int], form: str, branches: int) -> tuple[int, int]:
  """(a, b) such that rank R has a R^2 + b R parameters."""
  check_kernel(kernel_shape, form)
  *window, inputs, outputs = kernel_shape
  area = math.prod(window)
  if form == 'tucker':
    return branches * area, branches * (outputs + inputs)
  return 0, branches * (outputs + inputs * area)


def count(kernel_shape: Sequence[int], rank: int, form: str, branches: int) -> int:
  """The number of parameters of all factors of a kernel."""
  quadratic, linear = _polynomial(kernel_shape, form, branches)
  return quadratic * rank**2 + linear * rank


def largest_rank(kernel_shape: Sequence[int], budget: int, form: str, branches: int) -> int:
  """The largest rank with at most `budget` parameters; 0 if there is none."""
  a, b = _polynomial(kernel_shape, form, branches)
  if a == 0:
    return budget // b
  # The positive root of a R^2 + b R = budget, rounded down, in integer arithmetic.
  return (math.isqrt(b * b + 4 * a * budget) - b) // (2 * a)


def nearest_rank(kernel_shape: Sequence[int], budget: int, form: str, branches: int) -> int:
  """The rank, at least 1, with a number of parameters closest to `budget`; ties go down."""
  low = max(1, largest_rank(kernel_shape, budget, form, branches))
  return min(
    (low, low + 1), key=lambda rank: abs(count(kernel_shape, rank, form, branches) - budget)
  )


def minimal_rank(kernel_shape: Sequence[int], form: str) -> int:
  """FedPara's r_min: the smallest R such that R^2 is at least the kernel's smaller side."""
  check_kernel(kernel_shape, form)
  *window, inputs, outputs = kernel_shape
  rows = inputs if form == 'tucker' else inputs * math.prod(window)
  return 1 + math.isqrt(min(rows, outputs) - 1)


def maximal_rank(kernel_shape: Sequence[int], form: str) -> int:
  """FedPara's r_max: the largest rank with no more parameters than the kernel itself."""
  return largest_rank(kernel_shape, math.prod(kernel_shape), form, FEDPARA_BRANCHES)


def is_worthwhile(kernel_shape: Sequence[int], form: str) -> bool:
  """Whether FedPara at r_min has fewer parameters than the kernel."""
  least = count(kernel_shape, minimal_rank(kernel_shape, form), form, FEDPARA_BRANCHES)
  return least < math.prod(kernel_shape)


def rank_for_gamma(kernel_shape: Sequence[int], gamma: float, form: str) -> int:
  """FedPara's rank for `gamma` in [0, 1]; r_min if that is larger than r_max.

  >>> from tff_lowrank.layers import ranks
  >>> [ranks.rank_for_gamma((256, 512), gamma, 'matrix') for gamma in (0, 0.5, 1)]
  [16, 50, 85]
  """
  checks.check_in_range('gamma', gamma, 0, 1)
  low = minimal_rank(kernel_shape, form)
  high = max(low, maximal_rank(kernel_shape, form))
  return round((1 - gamma) * low + gamma * high)


def low_rank_for_gamma(kernel_shape: Sequence[int], gamma: float, form: str) -> int:
  """The rank at which a plain low-rank kernel is as large as FedPara's at `gamma`.

  As close as possible: for form 'matrix' the size is equal, at twice FedPara's rank.
  """
  rank = rank_for_gamma(kernel_shape, gamma, form)
  budget = count(kernel_shape, rank, form, FEDPARA_BRANCHES)
  return nearest_rank(kernel_shape, budget, form, LOW_RANK_BRANCHES)


def rank_for_budget(kernel_shape: Sequence[int], budget: float, form: str, branches: int) -> int:
  """The largest rank whose size is at most the fraction `budget`, in (0, 1], of the kernel's size.

  Returns 0 if even rank 1 is too large. (The paper's notebook rounds up instead.)
  """
  check_size(None, None, budget)
  # The tolerance is for budgets such as 0.3, whose product may fall just below a whole number.
  limit = math.floor(budget * math.prod(kernel_shape) + 1e-6)
  return largest_rank(kernel_shape, limit, form, branches)


def check_size(rank: int | None, gamma: float | None, budget: float | None) -> None:
  """Raises unless exactly one is given, and in its range."""
  given = [value for value in (rank, gamma, budget) if value is not None]
  if len(given) != 1:
    raise ValueError(
      'Exactly one of `rank`, `gamma` and `budget` must be given, found '
      f'{rank}, {gamma} and {budget}.'
    )
  if rank is not None:
    checks.check_at_least('rank', rank, 1)
  elif gamma is not None:
    checks.check_in_range('gamma', gamma, 0, 1)
  else:
    checks.check_in_range('budget', budget, 0, 1)
    if budget == 0:
      raise ValueError('`budget` must be above 0, found 0.')


def choose_rank(
  kernel_shape: Sequence[int],
  form: str,
  branches: int,
  *,
  rank: int | None = None,
  gamma: float | None = None,
  budget: float | None = None,
) -> int:
  """The rank, at least 1, from whichever of `rank`, `gamma` and `budget` is given."""
  check_size(rank, gamma, budget)
  if rank is not None:
    return rank
  if budget is not None:
    return max(1, rank_for_budget(kernel_shape, budget, form, branches))
  assert gamma is not None  # One of the three is given.
  if branches == FEDPARA_BRANCHES:
    return rank_for_gamma(kernel_shape, gamma, form)
  return low_rank_for_gamma(kernel_shape, gamma, form)
