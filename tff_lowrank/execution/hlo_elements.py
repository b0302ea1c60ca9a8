"""The elementwise operations of HLO, in jax."""

from typing import Any

from jax import lax
import jax.numpy as jnp
import numpy as np

UNARY = {
  'abs': lax.abs, 'cbrt': lax.cbrt, 'ceil': lax.ceil, 'copy': lambda x: x, 'cosine': lax.cos,
  'count-leading-zeros': lax.clz, 'exponential': lax.exp, 'exponential-minus-one': lax.expm1,
  'floor': lax.floor, 'imag': lax.imag, 'is-finite': lax.is_finite, 'log': lax.log,
  'log-plus-one': lax.log1p, 'logistic': lax.logistic, 'negate': lax.neg, 'not': lax.bitwise_not,
  'optimization-barrier': lambda x: x, 'popcnt': lax.population_count, 'real': lax.real,
  'round-nearest-even': lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
  'round-nearest-afz': lax.round, 'rsqrt': lax.rsqrt, 'sign': lax.sign, 'sine': lax.sin,
  'sqrt': lax.sqrt, 'tan': lax.tan, 'tanh': lax.tanh,
}  # fmt: skip

BINARY = {
  'add': lax.add, 'and': lax.bitwise_and, 'atan2': lax.atan2, 'complex': lax.complex,
  'divide': lax.div, 'maximum': lax.max, 'minimum': lax.min, 'multiply': lax.mul,
  'or': lax.bitwise_or, 'power': lax.pow, 'remainder': lax.rem, 'shift-left': lax.shift_left,
  'shift-right-arithmetic': lax.shift_right_arithmetic,
  'shift-right-logical': lax.shift_right_logical, 'subtract': lax.sub, 'xor': lax.bitwise_xor,
}  # fmt: skip

COMPARE = dict(EQ=lax.eq, NE=lax.ne, LT=lax.lt, LE=lax.le, GT=lax.gt, GE=lax.ge)


def total_order(x: Any) -> Any:
  """Integers in the total order of `x`, in which -0 is below 0 and NaN is beyond infinity."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  bits = lax.bitcast_convert_type(x, np.dtype(f'int{8 * x.dtype.itemsize}'))
  flipped = lax.bitwise_xor(bits, np.array(jnp.iinfo(bits.dtype).max, bits.dtype))
  return jnp.where(bits < 0, flipped, bits)
