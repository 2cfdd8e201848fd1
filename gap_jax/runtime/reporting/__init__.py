"""Messages, numbers and progress of a run; a failure here never stops the training."""
