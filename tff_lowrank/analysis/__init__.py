"""What recorded gradients and models tell, without training. Never imports tff."""
