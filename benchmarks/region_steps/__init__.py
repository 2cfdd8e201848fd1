"""Steps that read boxes of people, beside mean pooling."""
