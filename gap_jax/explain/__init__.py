"""Opens trained models, exports them and reports on runs."""
