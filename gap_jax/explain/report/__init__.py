"""One page on one run or several: what they score, how they differ, where they look."""
