"""What every other module stands on: errors, files, settings, fault points."""
