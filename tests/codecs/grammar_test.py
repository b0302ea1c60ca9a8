from hypothesis import given
from hypothesis import strategies as st
import pytest

from tff_lowrank import codecs


def test_positions_names_and_nesting():
  expected = codecs.LookBack(codecs.ErrorFeedback(codecs.TopK(0.1)), 0.2)
  assert codecs.parse('look_back(error_feedback(top_k(0.1)), 0.2)') == expected
  assert codecs.parse(' look_back(threshold=0.2, inner=error_feedback(top_k)) ') == expected
  assert codecs.parse('look_back()') == codecs.parse('look_back') == codecs.LookBack()
  assert codecs.parse('top_k(5, granularity=model)') == codecs.TopK(5, granularity='model')
  assert codecs.parse('terngrad(None)') == codecs.TernGrad()
  assert codecs.parse('drive(True)') == codecs.DRIVE(unbiased=True)


def test_look_back_at_several_vectors():
  text = 'look_back(inner=top_k, threshold=0.3, vectors=4, predictive=True)'
  expected = codecs.LookBack(codecs.TopK(), 0.3, vectors=4, predictive=True)
  assert codecs.parse(text) == expected
  assert str(expected) == text


def test_text_of_a_codec_says_what_differs_from_the_defaults():
  assert str(codecs.TopK()) == 'top_k'
  codec = codecs.LookBack(codecs.TopK(7), 0.5, 'model')
  assert str(codec) == 'look_back(inner=top_k(amount=7), threshold=0.5, granularity=model)'


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'Expected a codec such as'),
    ('top_k(0.1', 'was never closed'),
    ('topk(0.1)', "found 'topk'. Did you mean 'top_k'"),
    ('0.1', "found '0.1'"),
    ('codecs.TopK(0.1)', "found 'codecs.TopK'"),
    ('top_k(0.1, 0.2)', '`values` must be a `codecs.Codec`'),
    ('top_k(0.1, identity, tensor, 4)', 'top_k takes 3 settings .*found 4'),
    ('top_k(share=0.1)', "top_k has the settings amount, values, granularity, found 'share'"),
    ('float16(1)', 'float16 takes 0 settings'),
    ('top_k(0.1, amount=0.2)', "'amount' of top_k is given twice"),
    ('top_k(2.0)', r'share must be in \(0, 1\], found 2.0'),
    ('top_k(-1)', 'must be at least 1, found -1'),
    ('top_k("0.1")', 'found'),
    ('error_feedback', "error_feedback needs the setting 'inner'"),
    ('error_feedback(sign_sgd)', 'error_feedback cannot be around sign_sgd'),
    ('look_back(look_back)', 'look_back cannot be around look_back'),
    ('look_back(0.2)', '`inner` must be a `codecs.Codec`, or a text .*, found 0.2'),
    ('qsgd(levels=many)', "`levels` must be `int`, found 'many'"),
    ('top_k(*x)', 'found'),
    ('top_k(**x)', 'found'),
    ('__import__("os")', 'expected one of'),
    ('top_k(0.1) + top_k(0.2)', 'expected one of'),
    ('lambda: 1', 'expected one of'),
  ],
)
def test_says_what_is_wrong(text, message):
  with pytest.raises(ValueError, match=message):
    codecs.parse(text)


@given(st.text(alphabet='top_k(),.01 =look_backTrue-*"[]', max_size=30))
def test_any_text_is_a_codec_or_a_value_error(text):
  try:
    codec = codecs.parse(text)
  except ValueError:
    return
  assert codecs.parse(str(codec)) == codec


@pytest.mark.parametrize(
  'made, same',
  [
    (codecs.ErrorFeedback('top_k(0.1)'), codecs.ErrorFeedback(codecs.TopK(0.1))),
    (codecs.LookBack('top_k(0.1)', 0.2), codecs.LookBack(codecs.TopK(0.1), 0.2)),
    (codecs.CMFL(inner='float16'), codecs.CMFL(inner=codecs.Float16())),
    (codecs.TopK(0.1, 'qsgd(7)'), codecs.TopK(0.1, codecs.QSGD(7))),
    (codecs.resolve('sign_sgd'), codecs.SignSGD()),
    (codecs.resolve(codecs.SignSGD()), codecs.SignSGD()),
  ],
)
def test_a_codec_may_be_given_as_its_text(made, same):
  assert made == same and hash(made) == hash(same) and str(made) == str(same)


@pytest.mark.parametrize('make', [codecs.resolve, codecs.ErrorFeedback, codecs.LookBack])
def test_what_is_neither_a_codec_nor_a_text_names_the_grammar(make):
  with pytest.raises(TypeError, match='must be a `codecs.Codec`, or a text for `codecs.parse`'):
    make(0.1)
  with pytest.raises(ValueError, match='expected one of identity, .*found .zip.'):
    make('zip')
