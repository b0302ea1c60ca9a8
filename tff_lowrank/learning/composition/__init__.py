"""The parts that the builders of `learning` put together to a process, and what joins them."""
