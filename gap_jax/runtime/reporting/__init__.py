"""What a run says while it trains: lines, numbers, progress; none of it can stop the training."""
