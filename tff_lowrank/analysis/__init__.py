"""Analysis of recorded gradients and models, without training. Never imports tff."""
